package pgledger_test

import (
	"testing"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/auditor/internal/storetest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
)

func open(t testing.TB, cfg pgledger.Config) *pgledger.Ledger {
	t.Helper()
	l, err := pgledger.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T, now func() time.Time) func() storetest.Store {
		db := pgtest.Start(t)
		return func() storetest.Store {
			return open(t, pgledger.Config{Database: postgres.Config{URL: db.URL}, Now: now})
		}
	})
}
