package app_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// store writes n dead letters to topic.
func store(t *testing.T, c *kafkatest.Cluster, topic string, n int) {
	t.Helper()
	p := kafka.NewProducer(c.Client(t), slog.New(slog.DiscardHandler))
	for i := range n {
		letter := deadletter.Letter{Topic: "task-events", Offset: int64(i), Subscription: "notifications", Reason: deadletter.Rejected, Error: "the sink answered 400"}
		if err := deadletter.Write(t.Context(), p, topic, event.Record{Value: fmt.Appendf(nil, "event %d", i)}, letter); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDLQListReportsThatThereAreNone(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 1)
	vars := map[string]string{"KAFKA_BOOTSTRAP_SERVERS": strings.Join(c.Brokers, ",")}
	out, errs, err := run(t.Context(), t, vars, "dlq", "list", "-topic", topic)
	if err != nil || out != "" || errs != "no open dead letters in topic "+topic+"\n" {
		t.Errorf("dlq list of an empty topic = %v, stdout %q, stderr %q; want the message on stderr alone", err, out, errs)
	}

	store(t, c, topic, 2)
	out, errs, err = run(t.Context(), t, vars, "dlq", "list", "-topic", topic)
	if err != nil || strings.Count(out, "\n") != 2 || errs != "" {
		t.Errorf("dlq list of two letters = %v, stdout %q, stderr %q; want two lines on stdout", err, out, errs)
	}
}

func TestDLQNamesAMissingTopic(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 1) + "-other"
	_, _, err := run(t.Context(), t, map[string]string{"KAFKA_BOOTSTRAP_SERVERS": strings.Join(c.Brokers, ",")}, "dlq", "list", "-topic", topic)
	if err == nil || !strings.Contains(err.Error(), "topic "+topic+" does not exist") {
		t.Errorf("dlq list = %v, want that the topic does not exist", err)
	}
}

// TestDLQShowsWhatATerminalWouldObey as escapes, and finds a letter by its place.
func TestDLQShowsWhatATerminalWouldObey(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 1)
	p := kafka.NewProducer(c.Client(t), slog.New(slog.DiscardHandler))
	letter := deadletter.Letter{Topic: "task-events", Offset: 3, Group: "g", Subscription: "notifications", Reason: deadletter.Malformed, Error: "\x1b[2J"}
	if err := deadletter.Write(t.Context(), p, topic, event.Record{Key: []byte("\u202ekey"), Value: []byte("{\"a\":\"\u009b2J\u202e\"}")}, letter); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"KAFKA_BOOTSTRAP_SERVERS": strings.Join(c.Brokers, ",")}
	for _, args := range [][]string{{"list", "-topic", topic}, {"show", "-topic", topic, "0/0"}, {"show", "0/0", "-topic", topic}} {
		out, _, err := run(t.Context(), t, vars, "dlq", args...)
		if err != nil || out == "" || strings.ContainsAny(out, "\x1b\u009b\u202e") {
			t.Errorf("dlq %v = %v, %q; want everything escaped", args, err, out)
		}
	}
	if _, _, err := run(t.Context(), t, vars, "dlq", "show", "0/1", "-topic", topic); err == nil || !strings.Contains(err.Error(), "no dead letter 0/1") {
		t.Errorf("dlq show of no letter = %v", err)
	}
}

// TestAStoppedDLQWatchSucceeds: SIGINT and SIGTERM end the context; that is how a watch ends.
func TestAStoppedDLQWatchSucceeds(t *testing.T) {
	c := kafkatest.Start(t)
	topic := c.Topic(t, 1)
	store(t, c, topic, 1)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	out := &stopAfterLine{stop: stop}
	for _, sub := range app.Commands() {
		if sub.Name != "dlq" {
			continue
		}
		err := sub.Run(ctx, env.Map(map[string]string{"KAFKA_BOOTSTRAP_SERVERS": strings.Join(c.Brokers, ",")}), []string{"watch", "-topic", topic}, out, out)
		if err != nil {
			t.Errorf("dlq watch = %v after a stop, want nil", err)
		}
	}
	if !strings.Contains(out.String(), "rejected") {
		t.Errorf("dlq watch printed %q, want the dead letter", out)
	}
}

// stopAfterLine stops the watch while it waits for more, as an operator does.
type stopAfterLine struct {
	stop func()
	mu   sync.Mutex
	buf  bytes.Buffer
}

func (w *stopAfterLine) Write(b []byte) (int, error) {
	time.AfterFunc(100*time.Millisecond, w.stop)
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *stopAfterLine) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
