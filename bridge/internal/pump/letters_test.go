package pump_test

import (
	"strings"
	"testing"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
)

// TestADeadLetterNamesItsSinkWithoutSecrets: whoever may read the dead letters may
// not post to the sink.
func TestADeadLetterNamesItsSinkWithoutSecrets(t *testing.T) {
	s := newSink(t, func(string, int) int { return 415 })
	b := setup(t, strings.Replace(s.server.URL, "http://", "http://user:hunter2@", 1)+"/in?access_token=hunter2#hunter2")
	b.produce(events(1, 1)...)
	_, stop := b.run()
	b.untilCommitted(1)
	stop()
	letters := b.letters()
	if len(letters) != 1 || letters[0].Letter.Sink != s.server.URL+"/in" || letters[0].Letter.Reason != deadletter.Rejected || letters[0].Letter.Status != 415 {
		t.Fatalf("letters = %+v, want one to %s/in", letters, s.server.URL)
	}
	for _, h := range letters[0].Record.Headers {
		if strings.Contains(string(h.Value), "hunter2") {
			t.Errorf("header %s = %s", h.Key, h.Value)
		}
	}
}
