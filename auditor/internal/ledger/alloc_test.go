package ledger_test

import (
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// An append of one event, with its turn as the writer and its place in the index,
// stays within a budget of allocations.
func TestAllocationsOfAnAppend(t *testing.T) { // not parallel: it counts those of the process
	const runs, budget = 500, 34 // with the race detector; 29 without
	l := mustOpen(t, ledger.Config{Path: logPath(t)})
	entries := make([]ledger.Entry, runs+1)
	for i := range entries {
		entries[i] = newEntry("a", i+1)
	}
	next := 0
	got := testing.AllocsPerRun(runs, func() {
		if out := l.Append(entries[next])[0]; out.Err != nil {
			t.Fatal(out.Err)
		}
		ledger.AwaitIndexed(l)
		next++
	})
	if got > budget {
		t.Errorf("%.0f allocations for an append, the budget is %d", got, budget)
	}
	t.Logf("%.0f allocations", got)
}
