package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	// beat is how often a session that holds or wants the lock speaks to the server.
	beat = time.Second
	// beatTimeout is how long an answer may take. With beat it is less than lease: a
	// relay that is cut off stops before the server gives its lock to another.
	beatTimeout = 2 * time.Second
	// lease is how long the server keeps the lock of a session that says nothing. A
	// process that was stopped, or a machine that has lost its network, closes no
	// connection.
	lease = "5s"

	outboxChannel = "taskapi_outbox" // a commit wrote outbox rows
	turnChannel   = "taskapi_relay"  // the lock is free
)

var relayLock = postgres.LockID("taskapi relay")

// errTurnLost ends the relay's turn.
var errTurnLost = errors.New("the session with the relay's lock has ended")

// Lead calls do while this process is the one whose relay publishes, and again
// when its turn comes back. do returns when term ends, because the lock is lost,
// or when it is done, after ctx has ended; with ctx Lead returns.
//
// Only one relay is meant to publish; what if there are two? The server gives the
// lock to another when the session that held it is gone, and its process may learn
// that late: it was stopped (SIGSTOP, a paused machine) after it had read rows, and
// then produces them. Let a task have m events in the topic, which never shrink.
// A relay reads all unpublished rows of a task from the first on, and a row is
// marked as published only after it is in the topic. So the batch of any relay, however old,
// is events a to b of the task with a <= m+1 at the time it was read, and also when
// it arrives, since m only grows. It adds nothing, or continues the task
// where it stands: first occurrences are in order and without a gap, whatever is
// repeated. A repeat may stand behind newer events (1 2 3 4 2 3). The auditor
// refuses it by its id; it is never the first of its id. A lane that the zombie
// continues with reads the rows again and the same holds; its marks are true ones.
//
// Fencing it off by the idempotent producer's epoch would need a transactional id,
// which all replicas share, and would save repeats only, of which there are at
// most those that the zombie held.
func (s *Store) Lead(ctx context.Context, do func(term context.Context)) {
	backoff := retry.Backoff{Min: 100 * time.Millisecond, Max: beat}
	warning := rate.Sometimes{Interval: 10 * time.Second} // an outage is one line now and then
	for ctx.Err() == nil {
		err := s.lead(ctx, do)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.heard(err)
		warning.Do(func() { s.cfg.Log.Warn("relay has no session with PostgreSQL, trying again", "err", err) })
		if backoff.Wait(ctx) != nil {
			return
		}
	}
}

// lead waits for the lock and holds it. It returns nil when do is done.
func (s *Store) lead(ctx context.Context, do func(term context.Context)) error {
	conn, err := postgres.Connect(ctx, s.cfg.Database)
	if err != nil {
		return err
	}
	detached := context.WithoutCancel(ctx)
	defer func() { // the lock goes with the session
		closing, cancel := context.WithTimeout(detached, beatTimeout)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if _, err := conn.Exec(ctx, `SELECT set_config('idle_session_timeout', $1, false)`, lease); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `LISTEN `+turnChannel); err != nil {
		return err
	}
	for {
		mine, err := s.try(ctx, conn)
		if err != nil {
			return err
		}
		if mine {
			break
		}
		if err := wait(ctx, conn); err != nil {
			return err
		}
	}
	if _, err := conn.Exec(ctx, `LISTEN `+outboxChannel); err != nil {
		return err
	}
	s.cfg.Log.Info("relay of this process publishes")
	if err := s.hold(detached, conn, do); err != nil {
		return err
	}
	// Whoever waits need not wait for its next try.
	_, _ = conn.Exec(detached, `SELECT pg_advisory_unlock($1), pg_notify('`+turnChannel+`', '')`, relayLock)
	return nil
}

// try asks for the lock. It does not wait for it in the server: that would hold a
// snapshot, and with it every dead row of the cluster.
func (s *Store) try(ctx context.Context, conn *pgx.Conn) (mine bool, err error) {
	asking, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	err = conn.QueryRow(asking, `SELECT pg_try_advisory_lock($1)`, relayLock).Scan(&mine)
	if err == nil {
		s.heard(nil)
	}
	return mine, err
}

// wait returns nil at a notification or after a beat.
func wait(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, beat)
	defer cancel()
	_, err := conn.WaitForNotification(waiting)
	if err != nil && pgconn.Timeout(err) && ctx.Err() == nil && !conn.IsClosed() {
		return nil
	}
	return err
}

// hold runs do until it returns, and ends its term when the session is lost.
func (s *Store) hold(ctx context.Context, conn *pgx.Conn, do func(term context.Context)) error {
	s.mu.Lock()
	s.settled = settled{} // another server may have taken over, whose ids begin lower
	s.mu.Unlock()
	s.leading.Store(true)
	defer s.leading.Store(false)
	term, end := context.WithCancelCause(ctx)
	defer end(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		do(term)
		end(nil) // wakes the wait below
	}()
	err := s.listen(term, conn)
	end(err)
	<-done
	return err
}

// listen passes notifications on and speaks to the server every beat, until term
// ends, which is no error.
func (s *Store) listen(term context.Context, conn *pgx.Conn) error {
	s.wakeRelay() // for what was committed before LISTEN
	for last := time.Now(); ; {
		err := wait(term, conn)
		switch {
		case term.Err() != nil && !conn.IsClosed():
			return nil
		case err != nil:
			return fmt.Errorf("%w: %w", errTurnLost, err)
		}
		if time.Since(last) < beat/2 {
			s.wakeRelay()
			continue
		}
		asking, cancel := context.WithTimeout(context.WithoutCancel(term), beatTimeout)
		_, err = conn.Exec(asking, `SELECT 1`)
		cancel()
		if err != nil {
			return fmt.Errorf("%w: %w", errTurnLost, err)
		}
		s.heard(nil)
		last = time.Now()
		s.wakeRelay() // a slow poll: a replica that died between its commit and its notification
	}
}

// announce tells the relay of another process about commits. One notification
// stands for all that were committed before it. It is not sent in the
// transaction of the change: that would take a lock which all commits of the
// server wait for, until the disk has it.
func (s *Store) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.notify:
		}
		sending, cancel := context.WithTimeout(ctx, beatTimeout)
		_, _ = s.writes.Exec(sending, `SELECT set_config('synchronous_commit', 'off', true), pg_notify('`+outboxChannel+`', '')`) // else the slow poll finds them
		cancel()
	}
}
