package pump

import (
	"errors"
	"slices"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/registry"
)

// Events whose data is Avro are posted with the same data as JSON, unless the
// subscription wants them as they are. The fetcher does that with the schemas that
// are known and asks nobody: a registry that hangs must not hold up other keys.
//
// An event whose schema is not known waits at the head of its key until it is. Its
// key waits with it, the others go on, and it is never a dead letter for that: a
// registry that is down, or that has lost its way, says nothing about an event. It
// is malformed when the registry has said for some time that there is no such
// schema, or has another than the one that the event's dataschema names by its
// fingerprint, or when the data is not what the schema says. All is known before the
// first post, so the order of effects is that of any other event.

// lookEvery is how often schemas are asked for that nothing has become known of.
const lookEvery = time.Second

var errNoRegistry = errors.New("the data is Avro, and no Schema Registry is configured: set SCHEMA_REGISTRY_URL, or data: as-is for the subscription")

// schemas are those of a partition's events.
type schemas struct {
	waiting []*item         // heads without theirs
	learned <-chan struct{} // closed when something has become known
	again   time.Time       // to look again without news
}

// translates reports whether the data of e has to become JSON.
func (p *partition) translates(e event.Event) bool {
	return !p.sub.cfg.AsIs && len(e.DataEncoded) > 0 && event.IsAvro(e)
}

// translate returns e with its data as JSON. The error says that this takes a schema
// that is not known, see awaitsSchema, or else that it cannot be.
func (p *partition) translate(e event.Event) (event.Event, error) {
	id, value, err := registry.CutHeader(e.DataEncoded)
	if err != nil {
		return event.Event{}, err
	}
	if p.sub.cfg.Schemas == nil {
		return event.Event{}, errNoRegistry
	}
	named, _ := event.Attribute(e, "dataschema")
	schema, err := p.sub.cfg.Schemas.Get(id, named)
	if err != nil {
		return event.Event{}, err
	}
	data, err := schema.AppendJSON(make([]byte, 0, 2*len(value)+64), value)
	if err != nil {
		return event.Event{}, err
	}
	return event.AsJSON(e, data, schema.JSONSchema)
}

func awaitsSchema(err error) bool {
	return errors.Is(err, errNoRegistry) || errors.As(err, new(*registry.PendingError))
}

// beingFetched reports whether nothing has gone wrong yet but that a schema is being
// fetched for the first time.
func beingFetched(err error) bool {
	var pending *registry.PendingError
	return errors.As(err, &pending) && pending.Err == nil
}

// awaitSchema takes a head whose schema was not known when it was fetched.
func (p *partition) awaitSchema(it *item, now time.Time) {
	if len(p.schemas.waiting) == 0 {
		p.watchSchemas(now)
	}
	if !p.decodeHead(it, now) {
		p.schemas.waiting = append(p.schemas.waiting, it)
	}
}

// watchSchemas comes before a look: what is learned after it is not missed.
func (p *partition) watchSchemas(now time.Time) {
	p.schemas.again = now.Add(lookEvery)
	if p.sub.cfg.Schemas != nil {
		p.schemas.learned = p.sub.cfg.Schemas.Changed()
	}
}

// lookUp looks again for the schemas that heads wait for, when there is news or a
// second has passed.
func (p *partition) lookUp(now time.Time) {
	if len(p.schemas.waiting) == 0 {
		return
	}
	select {
	case <-p.schemas.learned:
	default:
		if now.Before(p.schemas.again) {
			return
		}
	}
	p.watchSchemas(now)
	waiting := p.schemas.waiting
	p.schemas.waiting = nil
	for _, it := range waiting {
		if !p.decodeHead(it, now) {
			p.schemas.waiting = append(p.schemas.waiting, it)
		}
	}
	if len(p.schemas.waiting) > 0 && p.schemas.waiting[0].err != nil {
		p.sub.pass.unanswered(p.schemas.waiting[0].err, now)
	}
}

// schemaNews is ready when lookUp has something to look at; nil while nothing waits.
func (p *partition) schemaNews() <-chan struct{} {
	if len(p.schemas.waiting) == 0 {
		return nil
	}
	return p.schemas.learned
}

// decodeHead sends a head on its way if its schema is known now. While it waits, the
// time for which an event is tried does not begin.
func (p *partition) decodeHead(it *item, now time.Time) bool {
	e, err := p.translate(*it.encoded)
	if err != nil && awaitsSchema(err) {
		if beingFetched(err) {
			return false
		}
		news := it.first.IsZero()
		it.fail(err, now)
		if news {
			p.noteUndecoded(it, now)
		}
		p.sub.schemaless.Do(func() {
			p.sub.log.Warn("event waits for its schema, key blocked", append(p.attrs(it), "failing_for", it.failingFor(now), "err", err)...)
		})
		return false
	}
	it.encoded, it.state, it.err, it.first = nil, queued, nil, time.Time{}
	size := it.size
	if err == nil {
		err = it.shape(p.sub.cfg.Mode, e, nil)
	}
	p.window.bytes += it.size - size
	if err == nil && len(it.body) > p.sub.cfg.mostBytes() {
		err = errTooLong
	}
	if err != nil {
		it.state, it.err = malformed, err
	}
	p.advance(it)
	return true
}

// forgetSchema takes a head off that waits for its schema.
func (p *partition) forgetSchema(it *item) {
	p.schemas.waiting = slices.DeleteFunc(p.schemas.waiting, func(w *item) bool { return w == it })
}
