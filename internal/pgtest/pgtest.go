// Package pgtest provides PostgreSQL to tests: a real server in processes of its
// own, one for each test process, and a database for each test. A server that
// cannot be started fails the test; it is never skipped. Nothing is left behind,
// even when the test process is killed.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Database is an empty database that is dropped at the end of its test.
type Database struct {
	URL    string // postgres://..., with a password
	Server *Server
	name   string
}

// shared is the server of this test process. It is a package variable because
// tests have no other common owner; the server ends with the process.
var shared struct {
	sync.Once
	server *Server
	err    error
}

// Start returns a database on a server that must not be stopped, since other
// tests of the process use it, too.
func Start(t testing.TB) *Database {
	t.Helper()
	shared.Do(func() {
		shared.server, shared.err = openScratch(context.WithoutCancel(t.Context()))
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.Database(t)
}

func openScratch(ctx context.Context, settings ...string) (*Server, error) {
	dir, err := os.MkdirTemp("", "pgtest-*")
	if err != nil {
		return nil, err
	}
	s, err := Open(ctx, Options{Dir: dir, Scratch: true, Settings: settings})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// StartOwn starts a server for this test alone that can be stopped, killed and
// restarted. Settings are those of postgresql.conf, such as "fsync=off".
func StartOwn(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := openScratch(t.Context(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("last lines of PostgreSQL's log:\n%s", s.lastLines())
		}
		if err := errors.Join(s.Immediate(), os.RemoveAll(s.opts.Dir)); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Database makes an empty database.
func (s *Server) Database(t testing.TB) *Database {
	t.Helper()
	name := fmt.Sprintf("test_%016x", rand.Uint64())
	if err := s.exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.exited() {
			return // the test has stopped its own server
		}
		if err := s.exec(context.WithoutCancel(t.Context()), "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
	})
	return &Database{URL: s.URL(name), Server: s, name: name}
}

func (s *Server) exec(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// Connect returns a connection that is closed at the end of the test.
func (d *Database) Connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) }) // the server may be gone
	return conn
}

// Terminate ends every session of the database, as an administrator would with
// pg_terminate_backend, and returns how many there were.
func (d *Database) Terminate(t testing.TB) int {
	t.Helper()
	n, err := d.Server.Terminate(t.Context(), d.name)
	if err != nil {
		t.Error(err)
	}
	return n
}

// Terminate ends every session of the named database but its own.
func (s *Server) Terminate(ctx context.Context, database string) (n int, err error) {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return 0, err
	}
	err = conn.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1", database).Scan(&n)
	return n, errors.Join(err, conn.Close(ctx))
}
