package kafkatest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

func TestMain(m *testing.M) {
	if os.Getenv("KAFKATEST_CHILD") != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestTopicsOfTwoTestsDiffer(t *testing.T) {
	c := kafkatest.Start(t)
	a, b := c.Topic(t, 2), c.Topic(t, 2)
	if a == b {
		t.Fatalf("Topic = %s twice, want different names", a)
	}
	if n, err := kafka.Partitions(within(t, time.Minute), c.Client(t), a); n != 2 || err != nil {
		t.Errorf("Partitions = %d, %v; want 2, nil", n, err)
	}
	if err := c.Stop(); err == nil {
		t.Error("Stop of a shared Kafka = nil, want an error")
	}
}

func TestDataAndAddressSurviveStopAndKill(t *testing.T) {
	c := kafkatest.StartOwn(t)
	topic, client := c.Topic(t, 1), c.Client(t)
	p := kafka.NewProducer(client, slog.New(slog.DiscardHandler))
	for i, end := range []func() error{c.Stop, c.Kill} {
		if err := p.Produce(within(t, time.Minute), topic, []event.Record{{Key: []byte("k"), Value: fmt.Append(nil, i)}}); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := kafka.Reachable(within(t, time.Minute), client); err == nil {
			t.Fatal("Reachable after the end = nil, want an error")
		}
		started := time.Now()
		if err := c.Restart(); err != nil {
			t.Fatal(err)
		}
		t.Logf("restart took %v", time.Since(started).Round(time.Millisecond))
	}
	kafka.Forget(client)
	resp, err := client.ListOffsets(within(t, time.Minute), &kafkago.ListOffsetsRequest{Topics: map[string][]kafkago.OffsetRequest{topic: {kafkago.LastOffsetOf(0)}}})
	if err != nil || len(resp.Topics[topic]) != 1 || resp.Topics[topic][0].LastOffset != 2 {
		t.Errorf("ListOffsets = %+v, %v; want last offset 2", resp, err)
	}
}

// ready stands before the address in what a second process says.
const ready = "ready at "

// TestNoJVMOutlivesItsTest starts a real Kafka in a second process and kills that process.
func TestNoJVMOutlivesItsTest(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only with a real Kafka")
	}
	dir := filepath.Join(t.TempDir(), "kafka")
	p := apptest.Self(t, append(os.Environ(), "KAFKATEST_CHILD="+dir)...)
	p.Await(t, ready)
	p.Signal(os.Kill)
	p.Exit()
	_, address, _ := strings.Cut(p.Log(), ready)
	address, _, _ = strings.Cut(address, "\n")
	cfg := kafka.Config{Brokers: []string{address}}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	client := kafka.NewClient(cfg, transport)
	ctx := within(t, 20*time.Second)
	for kafka.Reachable(ctx, client) == nil {
	}
	for {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the broker's folder was not removed within 20 s")
		}
		time.Sleep(10 * time.Millisecond) // another process removes it
	}
}

func child() {
	r, err := kafkatest.OpenReal(context.Background(), kafkatest.Options{Dir: os.Getenv("KAFKATEST_CHILD"), Scratch: true, Progress: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, ready+r.Brokers[0])
	select {}
}

func TestAdvertisedListeners(t *testing.T) {
	if !kafkatest.IsReal() {
		t.Skip("only with a real Kafka")
	}
	r, err := kafkatest.OpenReal(t.Context(), kafkatest.Options{Dir: filepath.Join(t.TempDir(), "kafka"), Progress: os.Stderr, Listeners: map[string]string{"PROXY": "127.0.0.1:9"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	}()
	for addr, want := range map[string]string{r.Listeners["PROXY"]: "127.0.0.1:9", r.Brokers[0]: r.Brokers[0]} {
		cfg := kafka.Config{Brokers: []string{addr}}
		transport, err := kafka.NewTransport(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer transport.Close()
		meta, err := kafka.NewClient(cfg, transport).Metadata(within(t, time.Minute), &kafkago.MetadataRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s:%d", meta.Brokers[0].Host, meta.Brokers[0].Port); got != want {
			t.Errorf("listener %s advertises %s, want %s", addr, got, want)
		}
	}
}

func TestAMissingProgramIsOneLine(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	t.Setenv("JAVA_HOME", "")
	_, err := kafkatest.OpenReal(t.Context(), kafkatest.Options{Dir: t.TempDir(), Progress: os.Stderr})
	oneLine(t, err, "no java on the PATH")

	if err := os.WriteFile(filepath.Join(empty, "go.mod"), []byte("module x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(empty)
	_, err = kafkatest.Fetch(t.Context(), os.Stderr)
	oneLine(t, err, "no mvn on the PATH")

	old := filepath.Join(empty, "java")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho 'openjdk version \"11.0.2\"' >&2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = kafkatest.OpenReal(t.Context(), kafkatest.Options{Dir: t.TempDir(), Progress: os.Stderr})
	oneLine(t, err, "version 11")
}

func oneLine(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error = %v, want one line with %q", err, want)
	}
}
