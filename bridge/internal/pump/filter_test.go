package pump_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/internal/filter"
)

// TestAnEventThatAFilterFailsForIsNotDelivered: it is counted, logged once in a
// while, and committed as any other that is not wanted.
func TestAnEventThatAFilterFailsForIsNotDelivered(t *testing.T) {
	s := newSink(t, func(string, int) int { return 204 })
	b := setup(t, s.server.URL)
	var log bytes.Buffer
	b.log = slog.New(slog.NewJSONHandler(&log, nil))
	b.cfg.Filters = []filter.Filter{{SQL: "id < 2 OR partitionkey = 'b'"}, {Any: []filter.Filter{{SQL: "NOT 10"}, {SQL: "type = 't'"}}}}
	b.produce(event("1", "a"), event("x", "b"), event("2", "a"), event("y", "b"), event("3", "b"))
	_, stop := b.run()
	b.untilCommitted(5)
	stop()
	if diff := cmp.Diff([]string{"1", "3"}, slices.Sorted(slices.Values(s.accepted()))); diff != "" {
		t.Errorf("delivered (-want +got):\n%s", diff)
	}
	// x and y are no numbers; 1 and 3 pass in spite of the NOT. The first filter is false for 2.
	if n, ok := b.metric("taskwire_bridge_filter_errors_total", "subscription", "sub"); n != 4 || !ok {
		t.Errorf("%v failures counted, want 4", n)
	}
	if n := strings.Count(log.String(), "filter failed for an event"); n != 1 || !strings.Contains(log.String(), `"offset":0`) {
		t.Errorf("%d log lines, want one:\n%s", n, log.String())
	}
}
