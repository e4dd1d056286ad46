package pump

import (
	"context"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/bridge/internal/track"
	"github.com/taskwire/taskwire/internal/event"
)

// From the record to the commit an event costs these allocations, beside those of
// reading the record and of the attempt, which have budgets of their own.
func TestADeliveryAllocatesLittle(t *testing.T) {
	sink, err := deliver.New(deliver.Config{URL: "http://sink.example/"})
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	filters, err := newFilters([]filter.Filter{filter.Types([]string{"task.updated", "task.created"})})
	if err != nil {
		t.Fatal(err)
	}
	s := &Subscription{
		cfg: Config{Name: "sub", Mode: Structured, Order: ByKey, Concurrency: 8}, sink: sink, filters: filters, budget: NewBudget(64 << 20), pace: newPace(0), breaker: newBreaker(),
		metrics: NewMetrics(prometheus.NewRegistry()), log: slog.New(slog.DiscardHandler),
	}
	s.budget.join()
	p := &partition{
		sub: s, concurrency: 8, limit: math.MaxInt64, tracker: track.New(0, ""), window: newWindow(ByKey), committer: &committer{},
		work: make(chan *post, 8),
	}
	body, err := event.AppendChange(nil, event.Change{
		ID: "0198f3f7-3a2b-7c4d-8e5f-0123456789ab", Type: event.TypeCreated, Time: time.Now(), TaskVersion: 1, CorrelationID: "c",
		Data: event.Data{TaskID: "t-1", Title: "A title", Status: "pending"},
	})
	if err != nil {
		t.Fatal(err)
	}
	rec := fetch.Record{Record: event.Structured("t-1", body)}
	now := time.Now()
	allocs := testing.AllocsPerRun(2000, func() {
		p.pending, p.next = append(p.pending[:0], p.prepare(rec)), rec.Offset+1
		p.admit(now)
		p.startPosts(now, func(func(context.Context)) {})
		r := <-p.work
		r.result = deliver.Result{Outcome: deliver.Accepted, Status: 204}
		p.settle(r, now)
		rec.Offset++
	})
	if at, _, _ := p.tracker.Commit(); at != rec.Offset {
		t.Fatalf("committed %d of %d", at, rec.Offset)
	}
	if allocs > 5 { // the item, its id, its key and the queue of that, and the list of this test
		t.Errorf("%.1f allocations a delivery, want 5 at most", allocs)
	}
}
