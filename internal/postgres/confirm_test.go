package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
)

// A client that gives up its COMMIT leaves it waiting for the standby, and nobody sees it
// before a standby has it. Of such sessions there are not more than a few.
func TestACommitThatWasGivenUpStaysInvisible(t *testing.T) {
	t.Parallel()
	db := pgtest.StartOwn(t, "max_connections=200").Database(t)
	admin := db.Connect(t)
	if _, err := admin.Exec(t.Context(), "CREATE TABLE change (n int)"); err != nil {
		t.Fatal(err)
	}
	standby := pgtest.AwayStandby(t, db)
	pool, err := postgres.Open(t.Context(), postgres.Config{URL: db.URL, Application: "giving up"}, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	visible := func() (n int) {
		t.Helper()
		if err := admin.QueryRow(t.Context(), "SELECT count(*) FROM change").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	ctx, giveUp := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := pool.Exec(ctx, "INSERT INTO change VALUES (1)")
		answered <- err
	}()
	standby.AwaitCommit("giving up")
	giveUp()
	if err := <-answered; err == nil {
		t.Fatal("a commit that waits was answered")
	}
	pool.Reset()
	pool.Close() // after the session's end, and any cancel request
	standby.AwaitCommit("giving up")
	if n := visible(); n != 0 {
		t.Errorf("%d rows of a commit that waits are visible", n)
	}

	// Session after session gives up.
	config := postgres.Config{URL: db.URL, Application: "giving up again"}
	tries := 0
	apptest.Await(t, "a session is refused", func() bool {
		tries++
		conn, err := postgres.Connect(t.Context(), config)
		if errors.Is(err, postgres.ErrNoStandby) && postgres.Unavailable(err) {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := conn.Exec(ctx, "INSERT INTO change VALUES (2)"); err == nil {
			t.Fatal("a commit that waits was answered")
		}
		return false
	})
	if tries < 64 || tries > 100 {
		t.Errorf("session %d was refused, want one after 64", tries)
	}
	standby.Returns()
	apptest.Await(t, "the commits have happened", func() bool { return visible() == tries })
	conn, err := postgres.Connect(t.Context(), config)
	if err != nil {
		t.Fatalf("a session when the standby is back: %v", err)
	}
	_ = conn.Close(t.Context())
}
