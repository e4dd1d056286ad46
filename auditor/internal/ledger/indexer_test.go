package ledger_test

import (
	"sync"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// Every event is posted again the moment it was answered, by several callers: the
// index may not have it yet.
func TestAnEventIsKnownBeforeTheIndexHasIt(t *testing.T) {
	t.Parallel()
	path := logPath(t)
	l := mustOpen(t, ledger.Config{Path: path})
	const callers, events = 4, 400
	var wg sync.WaitGroup
	for w := range callers {
		wg.Go(func() {
			for v := range events {
				e := newEntry(string(rune('a'+w)), v+1)
				first := l.Append(e)[0]
				for range 3 {
					if out := l.Append(e)[0]; out.Err != nil || !out.Duplicate || out.Seq != first.Seq {
						t.Errorf("%s again: %+v, it was %+v", e.ID, out, first)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	ledgertest.Check(t, path, callers*events)
}
