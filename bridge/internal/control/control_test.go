package control_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica is a control with connections of its own, as a process has.
type replica struct {
	*control.Control
	log  apptest.Log
	stop func()
}

func start(t *testing.T, cfg kafka.Config, create bool) *replica {
	t.Helper()
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	client := kafka.NewClient(cfg, transport)
	r := &replica{}
	log := slog.New(slog.NewJSONHandler(&r.log, nil))
	r.Control = control.New(client, kafka.NewProducer(client, log), create, log)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	r.stop = func() { cancel(); <-done; transport.Close() }
	t.Cleanup(r.stop)
	return r
}

// settled waits until g is read and returns why it is shut.
func settled(t *testing.T, g *control.Gate) *control.Pause {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := g.Await(ctx); err != nil {
		t.Fatalf("the gate is not read: %v: %v", err, g.Unread())
	}
	pause, _ := g.Get()
	return pause
}

func isShut(g *control.Gate) bool { pause, _ := g.Get(); return pause != nil && g.Unread() == nil }

func isOpen(g *control.Gate) bool { pause, _ := g.Get(); return pause == nil }

func put(t *testing.T, client *kafkago.Client, key string, value []byte) {
	t.Helper()
	if err := kafka.NewProducer(client, slog.New(slog.DiscardHandler)).Produce(t.Context(), control.Topic, []event.Record{{Key: []byte(key), Value: value}}); err != nil {
		t.Fatal(err)
	}
}

func TestAPauseHoldsOnAllReplicasAndOutlivesThem(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	a, b := start(t, cluster.Config(), true), start(t, cluster.Config(), true)
	before := time.Now().Add(-time.Second)
	if p := settled(t, a.Gate("audit")); p != nil || settled(t, b.Gate("audit")) != nil {
		t.Fatalf("a new subscription is paused: %+v", p)
	}
	if err := a.Gate("audit").Pause(t.Context(), "the sink moves", "alice"); err != nil {
		t.Fatal(err)
	}
	mine, _ := a.Gate("audit").Get()
	if mine == nil || mine.Reason != "the sink moves" || mine.By != "alice" || mine.At.Before(before) || mine.At.After(time.Now()) {
		t.Fatalf("Pause has returned, and the state is %+v", mine)
	}
	apptest.Await(t, "the other replica follows", func() bool { return isShut(b.Gate("audit")) })
	if !isOpen(a.Gate("notifications")) && settled(t, a.Gate("notifications")) != nil {
		t.Error("another subscription is paused, too")
	}
	a.stop()
	b.stop()
	if err := cluster.Restart(); err != nil {
		t.Fatal(err)
	}
	c, d := start(t, cluster.Config(), false), start(t, cluster.Config(), false)
	for _, r := range []*replica{c, d} {
		if diff := cmp.Diff(mine, settled(t, r.Gate("audit"))); diff != "" {
			t.Errorf("after the restart (-want +got):\n%s", diff)
		}
	}
	if err := d.Gate("audit").Resume(t.Context(), "it has moved", "bob"); err != nil || !isOpen(d.Gate("audit")) {
		t.Fatalf("Resume = %v, open: %v", err, isOpen(d.Gate("audit")))
	}
	apptest.Await(t, "the other replica follows", func() bool { return isOpen(c.Gate("audit")) })
	if n := c.log.Count(`"msg":"subscription is resumed","topic":"taskwire-control","subscription":"audit","reason":"it has moved","by":"bob"`); n != 1 {
		t.Errorf("%d lines about the resume, want 1:\n%s", n, c.log.String())
	}
	if p := settled(t, start(t, cluster.Config(), false).Gate("audit")); p != nil {
		t.Errorf("a replica that starts after the resume has %+v", p)
	}
	client := cluster.Client(t)
	if compacted, err := kafka.IsCompacted(t.Context(), client, control.Topic); !compacted || err != nil {
		t.Errorf("IsCompacted = %v, %v", compacted, err)
	}
}

func TestTheLastRecordOfAKeyCounts(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	a := start(t, cluster.Config(), true)
	settled(t, a.Gate("other")) // the topic is there
	client := cluster.Client(t)
	paused := []byte(`{"paused":true,"reason":"r","by":"b","at":"2026-01-02T03:04:05Z","from":"a later version"}`)
	for name, c := range map[string]struct {
		values [][]byte
		want   string // By of the pause, "" for none
	}{
		"paused":     {[][]byte{paused}, "b"},
		"resumed":    {[][]byte{paused, []byte(`{"paused":false}`)}, ""},
		"tombstone":  {[][]byte{paused, nil}, ""},
		"again":      {[][]byte{paused, nil, paused}, "b"},
		"garbage":    {[][]byte{nil, []byte(`{"paused`)}, "unknown"},
		"no member":  {[][]byte{[]byte(`{}`)}, "unknown"},
		"a number":   {[][]byte{[]byte(`{"paused":1}`)}, "unknown"},
		"no reason":  {[][]byte{[]byte(`{"paused":true}`)}, "somebody"},
		"large":      {[][]byte{paused, fmt.Appendf(nil, `{"paused":false,"reason":%q}`, strings.Repeat("x", 16<<10))}, "unknown"},
		"very large": {[][]byte{paused, fmt.Appendf(nil, `{"paused":false,"reason":%q}`, strings.Repeat("x", 64<<10))}, "b"},
	} {
		for _, value := range c.values {
			put(t, client, name, value)
		}
		// One follows, one reads all of it at once.
		for _, r := range []*replica{a, start(t, cluster.Config(), false)} {
			pause := settled(t, r.Gate(name))
			got := ""
			if pause != nil {
				got = pause.By
			}
			if got != c.want {
				t.Errorf("%s: paused by %q, want %q", name, got, c.want)
			}
			if pause != nil && pause.Reason == "" {
				t.Errorf("%s: no reason", name)
			}
		}
	}
}

// TestAGateThatJoinsLater: a subscription may be added while the bridge runs, and
// its record may be far back; meanwhile nobody else's gate moves.
func TestAGateThatJoinsLater(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	a := start(t, cluster.Config(), true)
	audit := a.Gate("audit")
	settled(t, audit)
	for _, by := range []string{"1", "2", "3"} {
		if err := errors.Join(audit.Resume(t.Context(), "r", by), audit.Pause(t.Context(), "p", by)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, cluster.Client(t), "late", []byte(`{"paused":true,"reason":"r","by":"b"}`))
	_, changed := audit.Get()
	if p := settled(t, a.Gate("late")); p == nil || p.By != "b" {
		t.Errorf("the late gate is shut by %+v", p)
	}
	select {
	case <-changed:
		t.Error("the other gate has moved")
	default:
	}
	if p, _ := audit.Get(); p == nil || p.By != "3" {
		t.Errorf("the other gate is shut by %+v", p)
	}
}

func TestTwoWritersAtOnceAgree(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	a, b := start(t, cluster.Config(), true), start(t, cluster.Config(), true)
	settled(t, a.Gate("s"))
	settled(t, b.Gate("s"))
	done := make(chan error, 2)
	for _, r := range []*replica{a, b} {
		go func() {
			var err error
			for i := range 10 {
				err = errors.Join(err, r.Gate("s").Pause(t.Context(), fmt.Sprint(i), "x"), r.Gate("s").Resume(t.Context(), fmt.Sprint(i), "x"))
			}
			done <- errors.Join(err, r.Gate("s").Pause(t.Context(), fmt.Sprintf("%p", r), "x"))
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "both say the same", func() bool {
		p, _ := a.Gate("s").Get()
		q, _ := b.Gate("s").Get()
		return p != nil && q != nil && *p == *q
	})
}

// TestWithoutKafka: nothing opens while the topic cannot be read, what is known
// holds, and what a sink asks for holds at once and is stored later.
func TestWithoutKafka(t *testing.T) {
	cluster := kafkatest.StartOwn(t)
	a := start(t, cluster.Config(), true)
	settled(t, a.Gate("gone"))
	if err := a.Gate("known").Pause(t.Context(), "r", "b"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Stop(); err != nil {
		t.Fatal(err)
	}
	late := start(t, cluster.Config(), true)
	apptest.Await(t, "the late replica says why it waits", func() bool {
		err := late.Gate("known").Unread()
		return err != nil && strings.Contains(err.Error(), "KAFKA_BOOTSTRAP_SERVERS")
	})
	if p, _ := late.Gate("known").Get(); p == nil {
		t.Error("a gate is open that nobody has read the topic for")
	}
	a.Gate("gone").Gone(errors.New("the sink answered 410"))
	a.Gate("known").Gone(errors.New("the sink answered 410"))
	if p, _ := a.Gate("gone").Get(); p == nil || p.By != "sink" || p.Reason != "the sink answered 410" || p.Unstored == "" {
		t.Errorf("after 410 without Kafka: %+v", p)
	}
	if p, _ := a.Gate("known").Get(); p == nil || p.By != "b" {
		t.Errorf("410 has replaced a pause: %+v", p)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := a.Gate("known").Resume(ctx, "r", "b"); err == nil {
		t.Error("a resume is acknowledged without Kafka")
	}
	if err := cluster.Restart(); err != nil {
		t.Fatal(err)
	}
	if p := settled(t, late.Gate("known")); p == nil || p.By != "b" {
		t.Errorf("the late replica has %+v", p)
	}
	apptest.Await(t, "the other replica knows of the 410", func() bool {
		p, _ := late.Gate("gone").Get()
		return p != nil && p.By == "sink" && late.Gate("gone").Unread() == nil
	})
	apptest.Await(t, "this one knows that it is stored", func() bool { p, _ := a.Gate("gone").Get(); return p.Unstored == "" })
	if err := late.Gate("gone").Resume(t.Context(), "r", "b"); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "it is resumed everywhere", func() bool { return isOpen(a.Gate("gone")) })
}

// bubble runs f with a broker in virtual time.
func bubble(t *testing.T, f func(t *testing.T, cfg kafka.Config, cluster *kfake.Cluster)) {
	synctest.Test(t, func(t *testing.T) {
		var net kfake.VirtualNetwork
		broker, err := embedkafka.Start(embedkafka.Config{Listen: net.Listen, Addr: "127.0.0.1:9092", Topics: map[string]int{"events": 1}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := broker.Close(); err != nil {
				t.Error(err)
			}
		})
		f(t, kafka.Config{Brokers: []string{broker.Addr()}, ClientID: "test", Dial: net.DialContext}, broker.Cluster())
	})
}

func TestATopicThatIsMissing(t *testing.T) {
	bubble(t, func(t *testing.T, cfg kafka.Config, cluster *kfake.Cluster) {
		a := start(t, cfg, false)
		began := time.Now()
		g := a.Gate("s")
		if settled(t, g) != nil {
			t.Error("nobody can have paused it")
		}
		if took := time.Since(began); took < 3*time.Second {
			t.Errorf("a broker that has just started was believed after %v", took)
		}
		err := g.Pause(t.Context(), "r", "b")
		if err == nil || !strings.Contains(err.Error(), "KAFKA_CREATE_TOPICS") || !strings.Contains(err.Error(), "--config cleanup.policy=compact") || !isOpen(g) {
			t.Errorf("Pause = %v, want how to create the topic, and nothing paused", err)
		}
		// What the sink asks for holds here, and can be lifted here.
		g.Gone(errors.New("410"))
		synctest.Wait()
		if p, _ := g.Get(); p == nil || !strings.Contains(p.Unstored, "KAFKA_CREATE_TOPICS") {
			t.Errorf("after 410: %+v", p)
		}
		if err := g.Resume(t.Context(), "r", "b"); err != nil || !isOpen(g) {
			t.Errorf("Resume = %v, open: %v", err, isOpen(g))
		}
		// Somebody creates the topic and pauses elsewhere.
		b := start(t, cfg, true)
		if err := b.Gate("s").Pause(t.Context(), "r", "b"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second) // of the bubble's clock
		if !isShut(g) {
			t.Error("a topic that was created later is not read")
		}
		// It is deleted: what is known holds, and can no longer be changed.
		if err := cluster.DeleteTopic(control.Topic); err != nil {
			t.Fatal(err)
		}
		b.stop()
		time.Sleep(15 * time.Second)
		if err := g.Resume(t.Context(), "r", "b"); err == nil || !isShut(g) {
			t.Errorf("Resume without the topic = %v, shut: %v", err, isShut(g))
		}
		// Made anew, its offsets begin at 0 again.
		c := start(t, cfg, true)
		if err := c.Gate("s").Resume(t.Context(), "r", "b"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(15 * time.Second)
		if !isOpen(g) {
			t.Error("the new topic is not followed")
		}
	})
}

func TestATopicOfTheWrongShape(t *testing.T) {
	bubble(t, func(t *testing.T, cfg kafka.Config, cluster *kfake.Cluster) {
		if err := cluster.CreateTopic(control.Topic, 3, nil); err != nil {
			t.Fatal(err)
		}
		a := start(t, cfg, true)
		g := a.Gate("s")
		time.Sleep(time.Minute)
		if err := g.Unread(); err == nil || !strings.Contains(err.Error(), "has 3 partitions and must have one") {
			t.Errorf("Unread = %v, want what is wrong with the topic", err)
		}
	})
	bubble(t, func(t *testing.T, cfg kafka.Config, cluster *kfake.Cluster) {
		if err := cluster.CreateTopic(control.Topic, 1, nil); err != nil {
			t.Fatal(err)
		}
		a := start(t, cfg, true)
		settled(t, a.Gate("s"))
		synctest.Wait()
		if a.log.Count("is not compacted") != 1 {
			t.Errorf("no line about a topic that forgets:\n%s", a.log.String())
		}
	})
}
