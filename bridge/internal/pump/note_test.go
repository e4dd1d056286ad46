package pump

import (
	"strings"
	"testing"
	"time"
)

// TestANoteFitsIntoACommit: keys and reasons are anybody's text, and a broker
// refuses metadata above 4096 bytes.
func TestANoteFitsIntoACommit(t *testing.T) {
	for _, text := range []string{"plain", strings.Repeat("x", 10_000), strings.Repeat("\x01", 10_000), strings.Repeat("ü", 10_000), strings.Repeat("\xff", 10_000), strings.Repeat("<", 10_000)} {
		n := note{Member: strings.Repeat("m", 300), At: time.Now(), InFlight: 64, Oldest: 12.5,
			Blocking: &Block{Offset: 1 << 60, Key: text, EventID: text, Attempts: 7, Reason: text}}
		encoded, err := n.encode()
		if err != nil || len(encoded) > noteLimit {
			t.Fatalf("%.10q: %d bytes, %v", text, len(encoded), err)
		}
		back, err := decodeNote(encoded)
		if err != nil || back.Member != n.Member || back.InFlight != 64 || back.Blocking.Offset != 1<<60 || (text == "plain" && *back.Blocking != *n.Blocking) {
			t.Errorf("%.10q came back as %+v, %v", text, back, err)
		}
		if len(n.Blocking.Key) != len(text) {
			t.Error("the status itself was cut")
		}
	}
}

func FuzzDecodeNote(f *testing.F) {
	f.Add(`{"member":"m","at":"2026-01-02T03:04:05Z","in_flight":1,"oldest_unacked_seconds":2,"blocking":{"offset":1,"key":"k"}}`)
	f.Add(`{"oldest_unacked_seconds":1e308}`)
	f.Fuzz(func(t *testing.T, text string) {
		n, err := decodeNote(text)
		if err != nil {
			return
		}
		if _, err := n.encode(); err != nil {
			t.Errorf("%q is read and cannot be written: %v", text, err)
		}
	})
}
