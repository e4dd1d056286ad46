package redrive_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world has a subscription with three letters of one key.
func world(t *testing.T, sink http.HandlerFunc) *pump.Subscription {
	t.Helper()
	server := httptest.NewServer(sink)
	t.Cleanup(server.Close)
	c := kafkatest.Start(t)
	topic, letters := c.Topic(t, 1), c.Topic(t, 1)
	client, log := c.Client(t), slog.New(slog.DiscardHandler)
	producer := kafka.NewProducer(client, log)
	s, err := pump.New(pump.Config{Name: "sub", Group: topic, Topic: topic, Sink: server.URL, Order: pump.ByKey, Concurrency: 4, Timeout: 10 * time.Second, Attempts: 3,
		Backoff: deliver.Backoff{Initial: time.Millisecond, Multiplier: 2, Max: 10 * time.Millisecond}, For: time.Hour, DeadLetter: letters, Drain: 5 * time.Second},
		client, producer, pump.NewBudget(64<<20), pump.NewMetrics(prometheus.NewRegistry()), log)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		rec := event.Record{Key: []byte("k"), Value: fmt.Appendf(nil, `{"specversion":"1.0","id":"%d","source":"s","type":"t"}`, i),
			Headers: []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}}}
		l := deadletter.Letter{Topic: topic, Offset: int64(i), Group: topic, Subscription: "sub", Reason: deadletter.Rejected, Last: time.Now()}
		if err := deadletter.Write(t.Context(), producer, letters, rec, l); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// running has jobs that run until stop.
func running(t *testing.T, s *pump.Subscription) (jobs *redrive.Jobs, stop func()) {
	t.Helper()
	jobs = redrive.New(func() []*pump.Subscription { return []*pump.Subscription{s} }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- jobs.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return jobs, stop
}

func start(t *testing.T, jobs *redrive.Jobs, r redrive.Request) (v redrive.View) {
	t.Helper()
	apptest.Await(t, "the job is taken", func() bool { // Run may not have been scheduled yet
		var err error
		v, err = jobs.Start(r)
		return err == nil
	})
	return v
}

func TestAJobIsFollowedToItsEnd(t *testing.T) {
	s := world(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	jobs, _ := running(t, s)
	v := start(t, jobs, redrive.Request{Kind: redrive.Redrive, Subscription: "sub", DryRun: true, By: "b"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for looked := v; looked.State == redrive.Running && ctx.Err() == nil; { // somebody looks at it all the time
		looked, _ = jobs.Get(v.ID)
	}
	if v, _ = jobs.Await(ctx, v.ID); v.State != redrive.Done || v.Plan.Letters != 3 || v.Plan.Keys != 1 || v.Plan.Newer != 0 || v.Progress != nil {
		t.Errorf("dry run %+v, plan %+v", v, v.Plan)
	}
	v = start(t, jobs, redrive.Request{Kind: redrive.Redrive, Subscription: "sub", By: "b"})
	if v, _ = jobs.Await(ctx, v.ID); v.State != redrive.Done || v.Progress.Delivered != 3 || v.Plan != nil {
		t.Errorf("redrive %+v, progress %+v", v, v.Progress)
	}
	if got := jobs.List(); len(got) != 2 || got[1].ID != v.ID {
		t.Errorf("List = %+v", got)
	}
	if _, ok := jobs.Await(ctx, "nonsense"); ok || jobs.Cancel("nonsense", "b") {
		t.Error("a job that does not exist is known")
	}
	if _, err := jobs.Start(redrive.Request{Kind: redrive.Redrive, Subscription: "other"}); !errors.Is(err, redrive.ErrUnknown) {
		t.Errorf("Start = %v, want that the subscription is unknown", err)
	}
}

// TestAStoppedBridgeEndsItsJobs: what is in flight finishes and is marked, the
// rest is left to the next one.
func TestAStoppedBridgeEndsItsJobs(t *testing.T) {
	began, hold := make(chan struct{}, 9), make(chan struct{})
	s := world(t, func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-hold
		w.WriteHeader(http.StatusNoContent)
	})
	jobs, stop := running(t, s)
	v := start(t, jobs, redrive.Request{Kind: redrive.Redrive, Subscription: "sub", By: "b"})
	<-began
	time.AfterFunc(50*time.Millisecond, func() { close(hold) }) // after the stop
	stop()
	v, _ = jobs.Await(t.Context(), v.ID)
	if v.State != redrive.Stopped || !strings.Contains(v.Reason, "the bridge was stopped") || v.Progress.Delivered != 1 {
		t.Errorf("job %+v, progress %+v; want one delivered of one key", v, v.Progress)
	}
	if _, err := jobs.Start(redrive.Request{Kind: redrive.Redrive, Subscription: "sub"}); err == nil {
		t.Error("a job began after the stop")
	}
	next, _ := running(t, s)
	v = start(t, next, redrive.Request{Kind: redrive.Redrive, Subscription: "sub", By: "b"})
	if v, _ = next.Await(t.Context(), v.ID); v.State != redrive.Done || v.Progress.Delivered != 2 {
		t.Errorf("job %+v, progress %+v; want the other two", v, v.Progress)
	}
}
