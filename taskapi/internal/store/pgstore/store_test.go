package pgstore_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
	"github.com/taskwire/taskwire/taskapi/internal/store/storetest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		child()
	}
	goleak.VerifyTestMain(m)
}

var origin = task.Origin{CorrelationID: "c"}

// start opens a store and runs it; the returned function stops and closes it once.
func start(t *testing.T, cfg pgstore.Config) (*pgstore.Store, func() error) {
	t.Helper()
	s, err := pgstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, s.Close())
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s, stop
}

func config(db *pgtest.Database) pgstore.Config {
	return pgstore.Config{Database: postgres.Config{URL: db.URL, Application: "taskapi"}}
}

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, o storetest.Options) storetest.Store {
		cfg := config(pgtest.Start(t))
		cfg.OutboxLimit, cfg.Now = o.OutboxLimit, o.Now
		s, _ := start(t, cfg)
		return s
	})
}
