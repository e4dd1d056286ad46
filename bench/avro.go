package main

import (
	"context"
	"net/http"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr/srfake"
)

// benchAvro measures what an event in Avro costs against the same in JSON, in the
// structured mode that is the default: the bytes of its record, which are compressed
// on their way, and the CPU of the two services that write and read it. Sinks get JSON
// in both cases.
func benchAvro(ctx context.Context, r *rig, t *table) error {
	registry := srfake.New()
	defer registry.Close()
	json, err := r.encoded(ctx)
	if err != nil {
		return err
	}
	avro, err := r.encoded(ctx, "EVENT_ENCODING=avro", "SCHEMA_REGISTRY_URL="+registry.URL())
	if err != nil {
		return err
	}
	t.against("bytes of a record in Avro, against JSON", count, avro.record, json.record, none)
	t.against("of which its value", count, avro.value, json.value, none)
	t.against("CPU of the Task API an event, against JSON", seconds, avro.taskapi, json.taskapi, none)
	t.against("CPU of the bridge an event, against JSON", seconds, avro.bridge, json.bridge, none)
	return nil
}

// eventCost is what an event costs, on average.
type eventCost struct {
	record, value   float64 // bytes; of the record with key and headers
	taskapi, bridge float64 // CPU seconds
}

// encoded creates tasks until the bridge has posted all their events.
func (r *rig) encoded(ctx context.Context, env ...string) (c eventCost, err error) {
	r.say("creates %v", env)
	all := creates(r.n(20_000))
	b, err := r.broker(ctx, 1)
	if err != nil {
		return c, err
	}
	sink := newTarget(0, len(all))
	defer sink.close()
	settings, err := r.bridgeSettings(b, sink.URL)
	if err != nil {
		return c, err
	}
	bridge, err := r.service(ctx, "bridge", append(settings, env...)...)
	if err != nil {
		return c, err
	}
	api, err := r.taskAPI(ctx, b, r.newDatabase(), env...)
	if err != nil {
		return c, err
	}
	if _, err := api.answer("/tasks", jsonType, all, http.StatusCreated); err != nil {
		return c, err
	}
	if err := sink.wait(ctx); err != nil {
		return c, err
	}
	if c.taskapi, err = api.stop(); err != nil {
		return c, err
	}
	if c.bridge, err = bridge.stop(); err != nil {
		return c, err
	}
	if c.record, c.value, err = b.sizes(ctx, len(all)); err != nil {
		return c, err
	}
	n := float64(len(all))
	return eventCost{c.record / n, c.value / n, c.taskapi / n, c.bridge / n}, b.close()
}

// sizes adds up the bytes of the first n records and of their values.
func (b *broker) sizes(ctx context.Context, n int) (records, values float64, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ConsumeTopics(b.topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	for n > 0 {
		fetched := cl.PollRecords(ctx, n)
		if err := fetched.Err(); err != nil {
			return 0, 0, err
		}
		for _, rec := range fetched.Records() {
			n--
			records += float64(len(rec.Key) + len(rec.Value))
			values += float64(len(rec.Value))
			for _, h := range rec.Headers {
				records += float64(len(h.Key) + len(h.Value))
			}
		}
	}
	return records, values, nil
}
