package pgtest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/taskwire/taskwire/internal/apptest"
)

// Standby is a synchronous standby that is away, so that every COMMIT waits for it.
type Standby struct {
	t    testing.TB
	conn *pgx.Conn // a superuser's
}

// AwayStandby has the commits on a server of the test's own wait, until Returns or the end
// of the test.
func AwayStandby(t testing.TB, db *Database) *Standby {
	t.Helper()
	s := &Standby{t, db.Connect(t)}
	t.Cleanup(s.Returns)
	s.require("away")
	return s
}

// Returns lets the commits that wait go on.
func (s *Standby) Returns() {
	s.t.Helper()
	s.require("")
}

func (s *Standby) require(name string) {
	s.t.Helper()
	ctx := context.WithoutCancel(s.t.Context())
	for _, statement := range []string{"ALTER SYSTEM SET synchronous_standby_names = '" + name + "'", "SELECT pg_reload_conf()"} {
		if _, err := s.conn.Exec(ctx, statement); err != nil {
			s.t.Fatal(err)
		}
	}
	apptest.Await(s.t, "the server has read its settings again", func() bool {
		var now string
		err := s.conn.QueryRow(ctx, "SHOW synchronous_standby_names").Scan(&now)
		return err == nil && now == name
	})
}

// Cancel waits until a COMMIT of the application waits, and cancels that as a client does
// that gives up: the COMMIT is answered, with a warning.
func (s *Standby) Cancel(application string) {
	s.t.Helper()
	s.await(application, "pg_cancel_backend(pid)")
}

// AwaitCommit waits until a COMMIT of the application waits.
func (s *Standby) AwaitCommit(application string) {
	s.t.Helper()
	s.await(application, "pid")
}

func (s *Standby) await(application, each string) {
	s.t.Helper()
	apptest.Await(s.t, "a commit of "+application+" waits for the standby", func() bool {
		var n int
		err := s.conn.QueryRow(s.t.Context(), "SELECT count("+each+") FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = $1", application).Scan(&n)
		return err == nil && n > 0
	})
}
