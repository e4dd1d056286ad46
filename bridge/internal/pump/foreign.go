package pump

import (
	"fmt"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/webhook"
)

// foreign is the second look at a malformed record, which may be an event in a
// format that the bridge does not read. If the subscription asks for nothing that
// takes reading it, it is posted as it is; else the dead letter says why not. Its
// place stands for the source and the id that are not known, as it does for
// records that are no events.
func (p *partition) foreign(it *item) {
	contentType, ok := event.ForeignFormat(it.record)
	switch {
	case !ok || p.sub.cfg.Wrap:
		return
	case p.sub.cfg.Mode != Structured && p.sub.cfg.Mode != Auto:
		it.err = fmt.Errorf("the record is an event in the format %s, which the bridge does not read: it can be delivered in the modes structured and auto only", contentType)
		return
	case len(p.sub.cfg.Filters) > 0:
		it.err = fmt.Errorf("the record is an event in the format %s, which the bridge does not read: types and filters cannot be applied to it", contentType)
		return
	}
	it.state, it.err = queued, nil
	it.contentType, it.body = contentType, it.record.Value
	it.most = 1 // a batch is JSON
	if p.sub.sink.Signs() {
		it.webhookID = webhook.ID("kafka:"+p.sub.cfg.Topic, fmt.Sprintf("%s/%d/%d", p.sub.cfg.Topic, p.id, it.offset))
	}
}
