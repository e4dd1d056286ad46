package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/taskapi/internal/store/pgstore"
	"github.com/taskwire/taskwire/taskapi/internal/store/storetest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		cfg.OutboxLimit, cfg.Now, cfg.Signer = o.OutboxLimit, o.Now, o.Signer
		s, _ := start(t, cfg)
		return s
	})
}

// An older program does not touch what a newer one wrote, and says what to do.
func TestANewerSchemaIsRefused(t *testing.T) {
	db := pgtest.Start(t)
	_, stop := start(t, config(db))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Connect(t).Exec(t.Context(), "UPDATE taskapi.schema_version SET version = 99"); err != nil {
		t.Fatal(err)
	}
	_, err := pgstore.Open(t.Context(), config(db))
	if newer := (*postgres.NewerError)(nil); !errors.As(err, &newer) || !strings.Contains(err.Error(), "use the newer program again") || postgres.Unavailable(err) {
		t.Errorf("Open = %v", err)
	}
}

func TestPublishedRowsAndOldKeysArePurged(t *testing.T) {
	db := pgtest.Start(t)
	cfg := config(db)
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	cfg.Now = func() time.Time { return now }
	s, _ := start(t, cfg)
	for i := range 5 {
		if _, err := s.Create(t.Context(), task.Create{Title: "x", Origin: origin, IdempotencyKey: task.IdempotencyKey{Value: fmt.Sprint(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := s.Next(t.Context(), 0, 3, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Published(t.Context(), []int64{page.Rows[0].ID, page.Rows[1].ID, page.Rows[2].ID}); err != nil {
		t.Fatal(err)
	}
	conn := db.Connect(t)
	for _, step := range []struct {
		after      time.Duration
		rows, keys int
	}{{59 * time.Minute, 5, 5}, {2 * time.Minute, 2, 5}, {24 * time.Hour, 2, 0}} {
		now = now.Add(step.after)
		if err := pgstore.Purge(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		var rows, keys int
		if err := conn.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM taskapi.outbox), (SELECT count(*) FROM taskapi.idempotency)").Scan(&rows, &keys); err != nil {
			t.Fatal(err)
		}
		if rows != step.rows || keys != step.keys {
			t.Errorf("after %v: %d rows and %d keys, want %d and %d", step.after, rows, keys, step.rows, step.keys)
		}
	}
}
