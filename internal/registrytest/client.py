"""Confluent's own client, so that the tests do not check our Avro with our Avro.

client.py read  BROKERS REGISTRY TOPIC COUNT [SCHEMA]  prints a record a line, as JSON; SCHEMA is a file with the reader's
client.py write BROKERS REGISTRY TOPIC                 takes {"key", "headers", "value", "schema"} a line
"""
import json
import sys

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext


def read(brokers, registry, topic, count, schema=None):
    text = open(schema).read() if schema else None
    decode = AvroDeserializer(SchemaRegistryClient({"url": registry}), schema_str=text)
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "python", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe([topic])
    for _ in range(int(count)):
        record = consumer.poll(30)
        if record is None or record.error():
            sys.exit(f"no record: {record and record.error()}")
        print(json.dumps({
            "key": record.key().decode(),
            "headers": {name: value.decode() for name, value in record.headers() or []},
            "value": decode(record.value(), SerializationContext(topic, MessageField.VALUE)),
        }), flush=True)
    consumer.close()


def write(brokers, registry, topic):
    client, producer, encode = SchemaRegistryClient({"url": registry}), Producer({"bootstrap.servers": brokers}), {}
    for line in sys.stdin:
        event = json.loads(line)
        schema = event["schema"]
        if schema not in encode:
            encode[schema] = AvroSerializer(client, schema)
        value = encode[schema](event["value"], SerializationContext(topic, MessageField.VALUE))
        producer.produce(topic, key=event["key"], value=value, headers=list(event["headers"].items()))
    if producer.flush(30):
        sys.exit("not every record was acknowledged")


{"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
