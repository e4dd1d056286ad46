package ledger_test

import (
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, now func() time.Time) func() storetest.Store {
		path := logPath(t)
		return func() storetest.Store {
			l, err := ledger.Open(t.Context(), ledger.Config{Path: path, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
	})
}
