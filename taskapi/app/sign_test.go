package app_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/taskapi/app"
)

// key is taskapi key ARGS.
func key(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	err = app.Key.Run(t.Context(), env.Lookup(func(string) (string, bool) { return "", false }), args, &out, &out)
	return out.String(), err
}

func TestKeysAreMadeAndShown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	made, err := key(t, "--new", path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	shown, err := key(t, path)
	if err != nil || shown != made || !strings.HasPrefix(made, "task-api ed25519:") {
		t.Errorf("made %q, shown %q, %v", made, shown, err)
	}
	if _, err := eventsign.ParseKeys([]byte(made)); err != nil {
		t.Error(err)
	}
	if _, err := key(t, "--new", path); err == nil {
		t.Error("a key was written over")
	}
	for _, args := range [][]string{nil, {"--new"}, {"-x", path}, {path, path}} {
		var usage *process.UsageError
		if _, err := key(t, args...); !errors.As(err, &usage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// In each mode the record has the signature; without a key there is no change.
func TestEventsAreSigned(t *testing.T) {
	cluster := kafkatest.Start(t)
	for _, mode := range []string{"structured", "binary", "envelope"} {
		t.Run(mode, func(t *testing.T) {
			topic := cluster.Topic(t, 1)
			f := newFixture(t, cluster.Brokers, topic)
			path := filepath.Join(t.TempDir(), "key.pem")
			line, err := key(t, "--new", path)
			if err != nil {
				t.Fatal(err)
			}
			keys, err := eventsign.ParseKeys([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			f.settings["EVENT_MODE"], f.settings["EVENT_SIGNING_KEY_FILE"] = mode, path
			a := f.start()
			var k acknowledged
			if err := k.lifetime(a.URL); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			apptest.Await(t, "the Task API is not ready", func() bool {
				status, text := a.Get(t, a.OpsURL+"/readyz")
				return status == 503 && strings.Contains(text, "EVENT_SIGNING_KEY_FILE: ")
			})
			if _, err := send(a.URL, "POST", "/tasks", `{"title": "x"}`); err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "Nothing was changed") {
				t.Errorf("without a key: %v", err)
			}
			if err := a.Stop(); err != nil {
				t.Fatal(err)
			}
			recs := records(t, cluster.Client(t), topic)
			if len(recs) != 3 {
				t.Fatalf("%d records", len(recs))
			}
			for _, r := range recs {
				e, got, err := event.FromRecord(r)
				if err != nil || string(got) != mode {
					t.Fatalf("%s: %v", got, err)
				}
				if err := keys.Verify(e); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// records reads partition 0 with its headers.
func records(t *testing.T, client *kafkago.Client, topic string) (all []event.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	resp, err := client.Fetch(ctx, &kafkago.FetchRequest{Topic: topic, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for {
		rec, err := resp.Records.ReadRecord()
		if err != nil {
			return all // the end
		}
		value, err := kafkago.ReadAll(rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		r := event.Record{Value: value}
		for _, h := range rec.Headers {
			r.Headers = append(r.Headers, event.Header{Key: h.Key, Value: h.Value})
		}
		all = append(all, r)
	}
}
