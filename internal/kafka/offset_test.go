package kafka_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

func TestBoundsAndStoredOffsets(t *testing.T) {
	cluster := kafkatest.Start(t)
	client, topic := cluster.Client(t), cluster.Topic(t, 2)
	group := topic + "-group"
	apptest.Await(t, "two records are in partition 1", func() bool {
		resp, err := client.Produce(t.Context(), &kafkago.ProduceRequest{Topic: topic, Partition: 1, RequiredAcks: kafkago.RequireAll,
			Records: kafkago.NewRecordReader(kafkago.Record{Value: kafkago.NewBytes([]byte("a"))}, kafkago.Record{Value: kafkago.NewBytes([]byte("b"))})})
		return err == nil && resp.Error == nil
	})
	bounds, err := kafka.TopicBounds(t.Context(), client, topic, 2)
	if diff := cmp.Diff([]kafka.Bounds{{}, {First: 0, End: 2}}, bounds); diff != "" || err != nil {
		t.Errorf("bounds, %v (-want +got):\n%s", err, diff)
	}
	if got, err := kafka.TopicBounds(t.Context(), client, topic, 3); err == nil {
		t.Errorf("bounds of three of two partitions = %v", got)
	}
	apptest.Await(t, "an offset is stored", func() bool {
		resp, err := client.OffsetCommit(t.Context(), &kafkago.OffsetCommitRequest{GroupID: group, GenerationID: -1,
			Topics: map[string][]kafkago.OffsetCommit{topic: {{Partition: 1, Offset: 7, Metadata: "m"}}}})
		return err == nil && resp.Topics[topic][0].Error == nil
	})
	stored, err := kafka.StoredOffsets(t.Context(), client, group, topic, 2)
	if err != nil || stored[0].CommittedOffset != -1 || stored[1].CommittedOffset != 7 || stored[1].Metadata != "m" {
		t.Errorf("stored = %+v, %v", stored, err)
	}
	nobody, err := kafka.StoredOffsets(t.Context(), client, group+"-nobody", topic, 1)
	if !errors.Is(err, kafkago.GroupIdNotFound) && (err != nil || nobody[0].CommittedOffset != -1) {
		t.Errorf("of a group that has stored nothing = %+v, %v", nobody, err)
	}
}
