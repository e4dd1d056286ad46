package postgres_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
)

// Programs that start at the same time take turns, and each step runs once.
func TestMigrationsRunOnce(t *testing.T) {
	db := pgtest.Start(t)
	steps := []string{"CREATE TABLE app.a (n int); INSERT INTO app.a VALUES (1)", "INSERT INTO app.a VALUES (2)"}
	run := func(steps []string) error {
		conn, err := postgres.Connect(t.Context(), postgres.Config{URL: db.URL})
		if err != nil {
			return err
		}
		defer conn.Close(t.Context())
		return postgres.Migrate(t.Context(), conn, "app", steps)
	}
	for _, known := range [][]string{steps[:1], steps, steps} {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := run(known); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	var rows, version int
	if err := db.Connect(t).QueryRow(t.Context(), "SELECT count(*), (SELECT version FROM app.schema_version) FROM app.a").Scan(&rows, &version); err != nil || rows != 2 || version != 2 {
		t.Errorf("%d rows in version %d, %v; want 2 in 2", rows, version, err)
	}
	var newer *postgres.NewerError
	if err := run(steps[:1]); !errors.As(err, &newer) || !strings.Contains(err.Error(), "use the newer program again") {
		t.Errorf("an older program: %v", err)
	}
	if err := run(append(steps, "INSERT INTO app.a VALUES (3); SELECT nonsense")); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("a step that fails: %v", err)
	}
	if err := db.Connect(t).QueryRow(t.Context(), "SELECT count(*) FROM app.a").Scan(&rows); err != nil || rows != 2 {
		t.Errorf("a step that failed left %d rows, %v", rows, err)
	}
}

// A role that may not create a schema works in one that it was given.
func TestASchemaMadeByTheAdministrator(t *testing.T) {
	db := pgtest.Start(t)
	if _, err := db.Connect(t).Exec(t.Context(), "CREATE SCHEMA app"); err != nil {
		t.Fatal(err)
	}
	conn, err := postgres.Connect(t.Context(), postgres.Config{URL: db.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := postgres.Migrate(t.Context(), conn, "app", []string{"CREATE TABLE app.a (n int)"}); err != nil {
		t.Error(err)
	}
}
