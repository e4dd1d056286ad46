package app

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/internal/control"
	"github.com/taskwire/taskwire/bridge/internal/group"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
)

func ptr[T any](v T) *T { return &v }

// seen is a group with everything that can be wrong, and text by an attacker.
func seen() []pump.View {
	evil := "\x1b[2J\x1b]0;owned\a\r\nroot# \u202e\"x\""
	return []pump.View{
		{Name: "audit", Group: "audit-service", Topic: "task-events", Sink: "http://localhost:8003/", State: "stable", Members: 2, Partitions: []pump.PartitionView{
			{Partition: 0, Committed: 1204, End: 1204, Owner: &group.Owner{Member: "bridge-0-4d2f", Instance: "bridge-0", Client: "bridge", Host: "10.0.0.7"}, InFlight: ptr(0), Oldest: ptr(0.0)},
			{Partition: 1, Committed: 1180, End: 1207, Lag: 27, Owner: &group.Owner{Member: "bridge-1-77aa", Client: "bridge"}, InFlight: ptr(1), Oldest: ptr(4000.0),
				Blocking: &pump.Block{Offset: 1180, Key: evil, Attempts: 12, Reason: "the sink answered 503: " + evil}},
			{Partition: 2, Committed: -1, End: 3, Lag: 3},
			{Partition: 3, Committed: 5, End: 5, Owner: &group.Owner{Member: evil}},
		}},
		{Name: "notifications", Group: "notification-service", Topic: "task-events", Sink: "http://localhost:8002/", State: "paused", Reason: "the sink moves", Members: 1,
			Paused:     &control.Pause{Reason: "the sink moves" + evil, By: "alice from 127.0.0.1", At: time.Date(2026, 11, 25, 16, 0, 0, 0, time.UTC), Unstored: "no connection"},
			Partitions: []pump.PartitionView{{Partition: 0, Committed: 10, End: 1_234_567_890, Lag: 1_234_567_880, InFlight: ptr(64), Oldest: ptr(200_000.0)}}},
		{Name: "orders", Group: "orders", Sink: "http://x/", State: "joining", Reason: "topic orders does not exist", Unknown: "only the partitions of this replica are shown: no broker"},
	}
}

func TestWhatTopPrints(t *testing.T) {
	got := strings.Join(tables(seen(), false), "\n") + "\n"
	want, err := os.ReadFile("testdata/top.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("tables (-want +got):\n%s\n%s", diff, got)
	}
}

// TestNobodyElseMovesTheCursor: keys, reasons and names are other people's text.
func TestNobodyElseMovesTheCursor(t *testing.T) {
	for _, width := range []int{1, 20, 80, 500} {
		for _, height := range []int{1, 2, 5, 12, 24, 100} {
			got := frame("head", seen(), width, height)
			own := strings.NewReplacer("\x1b[H", "", "\x1b[K", "", "\x1b[J", "").Replace(got)
			lines := strings.Split(own, "\r\n")
			if len(lines) > height {
				t.Errorf("%d lines on a terminal of %d", len(lines), height)
			}
			for _, line := range lines {
				if len([]rune(line)) > width {
					t.Errorf("a line of %d on a terminal of %d: %q", len([]rune(line)), width, line)
				}
				if strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u202e' || r >= 0x80 && r < 0xa0 }) {
					t.Errorf("%q can do more than be read", line)
				}
			}
		}
	}
	// A small window keeps what somebody waits for.
	if got := frame("head", seen(), 80, 16); !strings.Contains(got, "1180") || strings.Contains(got, "1204") || !strings.Contains(got, "2 partitions without lag are not shown") {
		t.Errorf("a window of 16 lines shows\n%s", got)
	}
}

func TestTopPrintsOnceIntoAPipe(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/subscriptions" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
		_, _ = w.Write([]byte(`{"subscriptions":[{"name":"audit","group":"g","state":"stable","members":1,"paused":null,"partitions":[{"partition":0,"committed":1,"end":2,"lag":1,"owner":null,"in_flight":null,"oldest_unacked_seconds":null,"blocking":null}]}]}`))
	}))
	defer server.Close()
	var out, errs strings.Builder
	if err := top(t.Context(), env.Map(map[string]string{"ADMIN_URL": server.URL}), nil, &out, &errs); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "audit: STABLE, lag 1,") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("top printed %q", out.String())
	}
	server.Close()
	if err := top(t.Context(), env.Map(map[string]string{"ADMIN_URL": server.URL}), []string{"--once"}, &out, &errs); err == nil || !strings.Contains(err.Error(), "set ADMIN_URL") {
		t.Errorf("top without a bridge = %v", err)
	}
	for _, args := range [][]string{{"x"}, {"--interval", "1ms"}, {"--interval", "often"}, {"--admin", "nowhere", "--once"}} {
		if err := top(t.Context(), env.Map(nil), args, &out, &errs); err == nil {
			t.Errorf("top %v is no mistake", args)
		}
	}
}
