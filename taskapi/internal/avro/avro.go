// Package avro publishes the data of events in Avro, with a schema that a Schema
// Registry has.
//
// An event is what its transaction made and, with a key, signed: its data is JSON,
// and its dataschema names the JSON Schema of that. Avro is how the data travels.
// The relay encodes it when it publishes, not the transaction when it commits: so a
// registry that is down delays events as a Kafka that is down does, and no change
// is refused for it. And what is stored, signed and compared for duplicates does not
// depend on the registry, or on an encoding that may be another after the next start.
//
// So that nothing is lost on the way, an event goes as Avro only if what a reader
// makes of its bytes is the data that they were made of, byte for byte. Any other,
// such as one that was committed before EVENT_ENCODING was set, goes as JSON in the
// same binary form, and readers tell them apart by the content type.
package avro

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/avro"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/registry"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/schemas"
)

// DataSchema is the dataschema of the events that are made to go as Avro.
const DataSchema = schemas.TaskEventJSON

// lookEvery is how often Run looks. It is shorter than the minute for which a bridge
// waits for a schema that the registry has lost, and the 10 s of one without a fingerprint.
const lookEvery = 5 * time.Second

// Registry registers schemas.
type Registry interface {
	Register(ctx context.Context, subject, schema string) (registry.Registered, error)
	// Has reports whether readers get the schema under its id.
	Has(ctx context.Context, r registry.Registered) (bool, error)
}

// Encoder makes records of events. It is safe for concurrent use.
type Encoder struct {
	// Lost counts how often the registry was found without the schema.
	Lost prometheus.Counter

	registry Registry
	subject  string
	text     string // of the schema
	schema   *avro.Schema
	reader   *registry.Schema
	log      *slog.Logger
	warn     rate.Sometimes // of what goes as JSON
	away     rate.Sometimes // of a registry that does not answer Run

	registered atomic.Pointer[registry.Registered] // nil: events wait
}

// New returns an encoder for a topic.
func New(r Registry, topic string, log *slog.Logger) (*Encoder, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(schemas.TaskEvent)); err != nil {
		return nil, fmt.Errorf("read the schema of task events: %w", err)
	}
	e := &Encoder{
		Lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "taskwire_schema_lost_total", Help: "Times that the Schema Registry no longer had the schema under the id that events were published with.",
		}),
		registry: r, subject: topic + "-value", text: compact.String(), log: log,
		warn: rate.Sometimes{Interval: 10 * time.Second}, away: rate.Sometimes{Interval: time.Minute},
	}
	var err error
	if e.schema, err = avro.Parse(e.text); err != nil {
		return nil, fmt.Errorf("read the schema of task events: %w", err)
	}
	if e.reader, err = registry.ParseSchema(e.text); err != nil {
		return nil, fmt.Errorf("read the schema of task events: %w", err)
	}
	return e, nil
}

// Register makes sure that the registry has the schema; once it has said so only Run
// asks again. Its error is a *registry.RefusedError when the registry refuses it.
func (e *Encoder) Register(ctx context.Context) error {
	if e.registered.Load() != nil {
		return nil
	}
	r, err := e.registry.Register(ctx, e.subject, e.text)
	if err != nil {
		return err
	}
	e.registered.Store(&r)
	e.log.Info("schema registered", "subject", e.subject, "version", r.Version, "schema_id", r.ID)
	return nil
}

// Run looks, until ctx ends, whether readers still get the schema under the id that
// records carry. A registry that lost its data, or whose subject was deleted for good,
// denies the id or gives it to another schema.
//
// Such an id is not used any more: the schema is registered again, and while that fails
// events wait in the outbox, for whose next attempt the relay calls Register. If the
// process dies before, its next start registers. A registry that does not answer says
// nothing about the id, which stays in use: its outage must not hold up events. What is
// published with the id until Run has looked is not read with another schema, as the
// dataschema has the fingerprint, and is read with this one as soon as it is registered.
func (e *Encoder) Run(ctx context.Context) {
	for retry.Pause(ctx, lookEvery) == nil {
		e.look(ctx)
	}
}

func (e *Encoder) look(ctx context.Context) {
	r := e.registered.Load()
	if r == nil {
		return // the relay registers it
	}
	has, err := e.registry.Has(ctx, *r)
	if err != nil && ctx.Err() == nil {
		e.away.Do(func() {
			e.log.Warn("schema registry does not answer, events go on with the id that is known", "schema_id", r.ID, "err", err)
		})
	}
	if err != nil || has {
		return
	}
	e.Lost.Inc()
	e.log.Error("schema lost by the registry, it is registered again", "subject", e.subject, "schema_id", r.ID)
	e.registered.Store(nil)
	if err := e.Register(ctx); err != nil && ctx.Err() == nil {
		e.log.Warn("schema not registered yet, events wait in the outbox", "err", err)
	}
}

// value is the data of a task event, with the names of the schema's fields.
type value struct {
	TaskID  string  `avro:"task_id"`
	Title   string  `avro:"title"`
	Status  string  `avro:"status"`
	OwnerID *string `avro:"owner_id"`
}

// Record is the record of an event, in binary mode. Register must have succeeded.
func (e *Encoder) Record(ev event.Event) (event.Record, error) {
	to := e.registered.Load()
	if to == nil {
		return event.Record{}, fmt.Errorf("no schema for subject %s is registered", e.subject)
	}
	if schema, _ := event.Attribute(ev, "dataschema"); schema != DataSchema {
		return event.Binary(ev)
	}
	data, err := e.encode(to.ID, ev)
	if err != nil {
		e.warn.Do(func() {
			e.log.Error("event published as JSON, its schema cannot carry its data", "event_id", ev.ID(), "event_type", ev.Type(), "err", err)
		})
		return event.Binary(ev)
	}
	if ev, err = event.AsAvro(ev, data, to.DataSchema); err != nil {
		return event.Record{}, err
	}
	return event.Binary(ev)
}

// encode returns the value of a record, or why a reader would not find in it what
// is in the event.
func (e *Encoder) encode(id int, ev event.Event) ([]byte, error) {
	d, err := event.Task(ev)
	if err != nil {
		return nil, err
	}
	header := registry.AppendHeader(make([]byte, 0, 64+len(ev.DataEncoded)), id)
	data, err := e.schema.AppendEncode(header, &value{d.TaskID, d.Title, d.Status, d.OwnerID})
	if err != nil {
		return nil, fmt.Errorf("encode the data: %w", err)
	}
	read, err := e.reader.AppendJSON(make([]byte, 0, len(ev.DataEncoded)), data[len(header):])
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(read, ev.DataEncoded) {
		return nil, fmt.Errorf("a reader would find %d bytes of other data, the event has %d", len(read), len(ev.DataEncoded))
	}
	return data, nil
}
