package pgtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/retry"
)

func TestMain(m *testing.M) {
	if os.Getenv("PGTEST_CHILD") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}

func TestEachTestHasADatabase(t *testing.T) {
	for range 2 {
		db := pgtest.Start(t)
		conn := db.Connect(t)
		if _, err := conn.Exec(t.Context(), "CREATE TABLE t (n int)"); err != nil {
			t.Fatal(err)
		}
		var version int
		if err := conn.QueryRow(t.Context(), "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil || version < 15_00_00 {
			t.Errorf("version %d, %v", version, err)
		}
	}
}

func TestTheServerAsksForAPassword(t *testing.T) {
	db := pgtest.Start(t)
	url := strings.Replace(db.URL, db.Server.Password(), "wrong", 1)
	var refused *pgconn.PgError
	if _, err := pgx.Connect(t.Context(), url); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestSettings(t *testing.T) {
	conn := pgtest.StartOwn(t, "fsync=off", "max_connections=17").Database(t).Connect(t)
	var fsync, most string
	if err := conn.QueryRow(t.Context(), "SELECT current_setting('fsync'), current_setting('max_connections')").Scan(&fsync, &most); err != nil || fsync != "off" || most != "17" {
		t.Errorf("fsync %q, max_connections %q, %v", fsync, most, err)
	}
}

// What was committed is there after every kind of end.
func TestCrashes(t *testing.T) {
	server := pgtest.StartOwn(t)
	db := server.Database(t)
	if _, err := db.Connect(t).Exec(t.Context(), "CREATE TABLE t (n int)"); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func() error{server.Stop, server.Immediate, server.Kill} {
		conn := db.Connect(t)
		if _, err := conn.Exec(t.Context(), "INSERT INTO t VALUES ($1)", i); err != nil {
			t.Fatal(err)
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		for ctx := within(t, 30*time.Second); conn.Ping(ctx) == nil; {
			// After Kill a session notices by itself.
		}
		if err := server.Restart(); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.Connect(t).QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil || n != i+1 {
			t.Fatalf("%d rows, %v; want %d", n, err, i+1)
		}
	}
}

func TestTerminate(t *testing.T) {
	db, other := pgtest.Start(t), pgtest.Start(t)
	ended, kept := db.Connect(t), other.Connect(t)
	if n := db.Terminate(t); n != 1 {
		t.Errorf("%d sessions ended, want 1", n)
	}
	if err := ended.Ping(t.Context()); err == nil {
		t.Error("the session was not ended")
	}
	if err := kept.Ping(t.Context()); err != nil {
		t.Errorf("a session of another database: %v", err)
	}
}

func TestFreeze(t *testing.T) {
	server := pgtest.StartOwn(t)
	conn := server.Database(t).Connect(t)
	thaw, err := server.Freeze(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() { answered <- conn.Ping(t.Context()) }()
	connect := within(t, 200*time.Millisecond)
	if _, err := pgx.Connect(connect, server.URL("postgres")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection to a frozen server: %v", err)
	}
	select {
	case err := <-answered:
		t.Errorf("a frozen server answered: %v", err)
	default:
	}
	thaw()
	if err := <-answered; err != nil {
		t.Errorf("after the thaw: %v", err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// ready stands before the address in what a second process says.
const ready = "ready at "

// TestNoServerOutlivesItsTest starts a server in a second process and kills that process.
func TestNoServerOutlivesItsTest(t *testing.T) {
	parent, err := os.MkdirTemp("", "pgtest-*") // t.TempDir is closed to the server's account
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "pg")
	p := apptest.Self(t, append(os.Environ(), "PGTEST_CHILD="+dir)...)
	p.Await(t, ready)
	p.Signal(os.Kill)
	p.Exit()
	_, url, _ := strings.Cut(p.Log(), ready)
	url, _, _ = strings.Cut(url, "\n")
	ctx := within(t, 30*time.Second)
	for {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			_ = conn.Close(ctx)
		}
		_, left := os.Stat(dir)
		if err != nil && errors.Is(left, os.ErrNotExist) {
			return
		}
		if retry.Pause(ctx, 10*time.Millisecond) != nil {
			t.Fatalf("after 30 s: connect %v, folder %v", err, left)
		}
	}
}

func child() {
	s, err := pgtest.Open(context.Background(), pgtest.Options{Dir: os.Getenv("PGTEST_CHILD"), Scratch: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, ready+s.URL("postgres"))
	select {}
}
