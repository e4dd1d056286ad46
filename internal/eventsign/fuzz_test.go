package eventsign_test

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// No bytes make an event or a line pass that does not say what was signed.
func FuzzForgery(f *testing.F) {
	keys, err := eventsign.ParseKeys([]byte("task-api " + public(1)))
	if err != nil {
		f.Fatal(err)
	}
	t := &testing.T{}
	body := signed(t, key(1))
	genuine, err := event.Parse(body)
	if err != nil {
		f.Fatal(err)
	}
	message := eventsign.Message(genuine)
	f.Add(body)
	f.Add(line(t, genuine))
	f.Add([]byte(`{"seq":1,"event_id":"x","event_type":"t","occurred_at":null,"metadata":{"correlation_id":null,"source":"task-api"},"attributes":{},"audited_at":"x"}`))
	f.Fuzz(func(t *testing.T, input []byte) {
		if e, err := event.Parse(input); err == nil && e.Source() == "task-api" && keys.Verify(e) == nil && !bytes.Equal(eventsign.Message(e), message) {
			t.Errorf("a forged event passes: %q", input)
		}
		if got, source, err := eventsign.LineMessage(input); verified(keys.VerifyLine(input)) == nil && (err != nil || source == "task-api" && !bytes.Equal(got, message)) {
			t.Errorf("a forged line passes: %q", input)
		}
	})
}
