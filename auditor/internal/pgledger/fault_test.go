package pgledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/auditor/internal/storetest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
	"github.com/taskwire/taskwire/internal/retry"
)

func config(url string) pgledger.Config {
	return pgledger.Config{Database: postgres.Config{URL: url}}
}

// opened is open with a Close at the end of the test.
func opened(t *testing.T, cfg pgledger.Config) *pgledger.Ledger {
	t.Helper()
	l := open(t, cfg)
	t.Cleanup(func() { mustClose(t, l) })
	return l
}

func mustClose(t *testing.T, l *pgledger.Ledger) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// run runs the ledgers until the end of the test.
func run(t *testing.T, ledgers ...*pgledger.Ledger) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	for _, l := range ledgers {
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}

// A connection that is lost at the commit leaves an unknown outcome: nobody is told
// that the batch is in the log, and the retry learns whether it is.
func TestTheConnectionIsLostAtTheCommit(t *testing.T) {
	t.Parallel()
	for f, wantDuplicate := range map[fault]bool{cutBefore: false, cutAfter: true} {
		p, url := newProxy(t, pgtest.Start(t))
		l := opened(t, config(url))
		if out := l.Append(storetest.Event("a", 1))[0]; out.Err != nil {
			t.Fatal(out.Err)
		}
		hit := p.arm(f)
		outs := l.Append(storetest.Event("a", 2), storetest.Event("a", 1))
		<-hit
		for _, out := range outs {
			var unavailable *pgledger.UnavailableError
			if !errors.As(out.Err, &unavailable) || out.Seq != 0 {
				t.Fatalf("fault %d: answered %+v", f, out)
			}
		}
		if l.Room() == nil || l.Fault() != nil {
			t.Errorf("fault %d: room %v, fault %v", f, l.Room(), l.Fault())
		}
		outs = l.Append(storetest.Event("a", 2), storetest.Event("a", 3))
		if outs[0].Err != nil || outs[0].Seq != 2 || outs[0].Duplicate != wantDuplicate || outs[1].Seq != 3 || outs[1].Duplicate {
			t.Errorf("fault %d: the retry was answered %+v", f, outs)
		}
		if n := len(storetest.Lines(t, l)); n != 3 || l.Room() != nil {
			t.Errorf("fault %d: %d lines, room %v", f, n, l.Room())
		}
	}
}

// An auditor that stops, as by SIGSTOP, while it holds the head loses it: the
// others do not wait for ever, and what it does when it goes on has no effect.
func TestAStoppedAuditorLosesTheHead(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t)
	p, url := newProxy(t, db)
	stopped, other := opened(t, config(url)), opened(t, config(db.URL))
	if out := stopped.Append(storetest.Event("a", 1))[0]; out.Err != nil {
		t.Fatal(out.Err)
	}
	hit := p.arm(holdBack)
	answered := make(chan ledger.Outcome, 1)
	go func() { answered <- stopped.Append(storetest.Event("a", 2))[0] }()
	<-hit
	if out := other.Append(storetest.Event("b", 1))[0]; out.Err != nil || out.Seq != 2 {
		t.Errorf("the other auditor: %+v", out)
	}
	p.release()
	if out := <-answered; out.Err == nil {
		t.Errorf("the stopped auditor answered %+v", out)
	}
	if out := stopped.Append(storetest.Event("a", 2))[0]; out.Err != nil || out.Seq != 3 || out.Duplicate {
		t.Errorf("the retry: %+v", out)
	}
}

// writer posts the versions of a task in order, each until it is answered with
// success, as the bridge does, to whichever ledger comes first.
func writer(t *testing.T, ctx context.Context, task string, ledgers []*pgledger.Ledger, acked map[string]int64, mu *sync.Mutex) {
	for v := 1; ctx.Err() == nil; v++ {
		e := storetest.Event(task, v)
		for {
			out := ledgers[rand.N(len(ledgers))].Append(e)[0]
			var conflict *ledger.ConflictError
			var fault *ledger.FaultError
			if errors.As(out.Err, &conflict) || errors.As(out.Err, &fault) || out.VersionGap != nil {
				t.Errorf("%s: %+v", e.ID, out)
				return
			}
			if out.Err == nil {
				mu.Lock()
				acked[e.ID] = out.Seq
				mu.Unlock()
				break
			}
			if retry.Pause(context.WithoutCancel(ctx), time.Millisecond) != nil {
				return
			}
		}
	}
}

// Two auditors, and a server whose sessions are ended, which is shut down at once,
// killed and frozen: everything that was answered is in the log, once, in order.
func TestTwoAuditorsOnAServerThatFails(t *testing.T) {
	t.Parallel()
	server := pgtest.StartOwn(t)
	db := server.Database(t)
	ledgers := []*pgledger.Ledger{opened(t, config(db.URL)), opened(t, config(db.URL))}
	run(t, ledgers...)
	acked := map[string]int64{}
	var mu sync.Mutex
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 12 {
		writers.Go(func() { writer(t, ctx, fmt.Sprint("t", w), ledgers, acked, &mu) })
	}
	progress := func() {
		mu.Lock()
		from := len(acked)
		mu.Unlock()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			now := len(acked)
			mu.Unlock()
			if now >= from+100 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("no progress within a minute")
			}
		}
	}
	restarted := func(end func() error) func() error {
		return func() error { return errors.Join(end(), server.Restart()) }
	}
	ended := 0
	for round := range 3 {
		for name, disturb := range map[string]func() error{
			"sessions ended":     func() error { ended += db.Terminate(t); return nil },
			"immediate shutdown": restarted(server.Immediate),
			"killed":             restarted(server.Kill),
			"stopped":            restarted(server.Stop),
			"frozen": func() error {
				thaw, err := server.Freeze(t.Context())
				if err == nil {
					time.AfterFunc(200*time.Millisecond, thaw)
				}
				return err
			},
		} {
			progress()
			if err := disturb(); err != nil {
				t.Fatalf("round %d, %s: %v", round, name, err)
			}
		}
	}
	progress()
	stop()
	writers.Wait()
	if ended == 0 {
		t.Error("no session was ended: the test has tested nothing")
	}
	checkLines(t, storetest.Lines(t, ledgers[0]), acked)
	if gaps := ledgers[0].VersionGaps(); gaps != 0 {
		t.Errorf("%d version gaps", gaps)
	}
}

// checkLines holds the log to what was answered.
func checkLines(t *testing.T, lines []string, acked map[string]int64) {
	t.Helper()
	at, last := map[string]int64{}, map[string]int64{}
	for i, line := range lines {
		e, err := ledger.ParseLine([]byte(line))
		if err != nil || e.Seq != int64(i)+1 {
			t.Fatalf("line %d: %v, %s", i+1, err, line)
		}
		if was := at[e.ID]; was != 0 {
			t.Errorf("%s stands at %d and %d", e.ID, was, e.Seq)
		}
		at[e.ID] = e.Seq
		v, _ := e.TaskVersion()
		if task := e.TaskID(); v != last[task]+1 {
			t.Errorf("version %d of %s follows %d", v, task, last[task])
		} else {
			last[task] = v
		}
	}
	for id, seq := range acked {
		if at[id] != seq {
			t.Errorf("%s was answered with %d and stands at %d", id, seq, at[id])
		}
	}
}

// Auditors that append at once wait for each other: none fails, none is lost.
func TestAuditorsTakeTurns(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t)
	ledgers := make([]*pgledger.Ledger, 4)
	for i := range ledgers {
		ledgers[i] = opened(t, config(db.URL))
	}
	var wg sync.WaitGroup
	for i, l := range ledgers {
		for w := range 4 {
			wg.Go(func() {
				for v := 1; v <= 25; v++ {
					if out := l.Append(storetest.Event(fmt.Sprintf("t%d-%d", i, w), v))[0]; out.Err != nil || out.Duplicate || out.VersionGap != nil {
						t.Errorf("auditor %d: %+v", i, out)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	if n := len(storetest.Lines(t, ledgers[0])); n != 400 {
		t.Errorf("%d lines, want 400", n)
	}
}

// The entries of another auditor wake those who wait in this one.
func TestAwaitHearsOfOtherAuditors(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t)
	here, there := opened(t, config(db.URL)), opened(t, config(db.URL))
	run(t, here)
	heard := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() { heard <- here.Await(ctx, 0) }()
	there.Append(storetest.Event("a", 1))
	if err := <-heard; err != nil || here.Len() != 1 {
		t.Errorf("%v with %d entries", err, here.Len())
	}
}

func TestSameLinesAsTheFile(t *testing.T) {
	t.Parallel()
	clock := func() time.Time { return storetest.At }
	file, err := ledger.Open(t.Context(), ledger.Config{Path: t.TempDir() + "/audit.log", Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cfg := config(pgtest.Start(t).URL)
	cfg.Now = clock
	db := opened(t, cfg)
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		var entries []ledger.Entry
		for range 1 + r.IntN(8) {
			e := storetest.Event(fmt.Sprint("t", r.IntN(5)), 1+r.IntN(6))
			switch r.IntN(8) {
			case 0:
				e.Data = []byte("{\n \"task_id\" : \"\u00e9\\u00e9\"\r\n}")
			case 1:
				e.Data, e.Base64 = []byte{0xff, 0, '\n'}, true
			case 2:
				e.Data = nil
			case 3:
				e.Attributes = append(e.Attributes, ledger.Attribute{Name: "x", Value: "\u2028\x01\"\\"})
			case 4:
				e.Source = "else\"where"
			}
			entries = append(entries, e)
		}
		if diff := cmp.Diff(file.Append(entries...), db.Append(entries...), cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); diff != "" {
			t.Fatalf("outcomes (-file +database):\n%s", diff)
		}
	}
	if diff := cmp.Diff(storetest.Lines(t, file), storetest.Lines(t, db)); diff != "" {
		t.Errorf("lines (-file +database):\n%s", diff)
	}
	if file.VersionGaps() != db.VersionGaps() || file.VersionGaps() == 0 {
		t.Errorf("version gaps: file %d, database %d", file.VersionGaps(), db.VersionGaps())
	}
}

// What exactly once rests on is looked at before anything is written.
func TestADatabaseThatWasAlteredIsRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ alter, want string }{
		"key index dropped":    {"DROP INDEX audit.entries_key", "unique index on audit.entries (key) is missing"},
		"key index not unique": {"DROP INDEX audit.entries_key; CREATE INDEX entries_key ON audit.entries (key)", "unique index on audit.entries (key) is missing"},
		"key index partial":    {"DROP INDEX audit.entries_key; CREATE UNIQUE INDEX entries_key ON audit.entries (key) WHERE seq > 5", "unique index on audit.entries (key) is missing"},
		"key index wider":      {"DROP INDEX audit.entries_key; CREATE UNIQUE INDEX entries_key ON audit.entries (key, seq)", "unique index on audit.entries (key) is missing"},
		"key may be null":      {"ALTER TABLE audit.entries ALTER key DROP NOT NULL", "unique index on audit.entries (key) is missing"},
		"no primary key":       {"ALTER TABLE audit.entries DROP CONSTRAINT entries_pkey", "unique index on audit.entries (seq) is missing"},
		"tail deleted":         {"ALTER TABLE audit.entries DISABLE TRIGGER append_only; DELETE FROM audit.entries WHERE seq = 2", "the last one has number 1 and audit.head says 2"},
		"head set back":        {"UPDATE audit.head SET entries = 1", "audit.head says 1 entries and the last one has number 2"},
		"head deleted":         {"DELETE FROM audit.head", "audit.head has 0 rows"},
		"newer schema":         {"UPDATE audit.schema_version SET version = 99", "use the newer program again"},
		"tables dropped":       {"DROP TABLE audit.entries", "audit.entries"},
	} {
		t.Run(name, func(t *testing.T) {
			db := pgtest.Start(t)
			l := open(t, config(db.URL))
			l.Append(storetest.Event("a", 1), storetest.Event("a", 2))
			mustClose(t, l)
			if _, err := db.Connect(t).Exec(t.Context(), c.alter); err != nil {
				t.Fatal(err)
			}
			l, err := pgledger.Open(t.Context(), config(db.URL))
			if err == nil {
				mustClose(t, l)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || postgres.Unavailable(err) {
				t.Errorf("open: %v, want %q", err, c.want)
			}
		})
	}
}

// The same while an auditor runs: it looks again at each new connection, and it
// remembers what it has acknowledged.
func TestADatabaseThatIsAlteredMeanwhileIsAFault(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ alter, want string }{
		"restored from an older state": {"ALTER TABLE audit.entries DISABLE TRIGGER append_only; DELETE FROM audit.entries WHERE seq = 2; UPDATE audit.head SET entries = 1", "entry 2 was acknowledged"},
		"emptied":                      {"DROP SCHEMA audit CASCADE", "entry 2 was acknowledged"},
		"index dropped":                {"DROP INDEX audit.entries_key", "unique index on audit.entries (key) is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			db := pgtest.Start(t)
			l := opened(t, config(db.URL))
			l.Append(storetest.Event("a", 1), storetest.Event("a", 2))
			if _, err := db.Connect(t).Exec(t.Context(), c.alter); err != nil {
				t.Fatal(err)
			}
			db.Terminate(t)
			var fault *ledger.FaultError
			if out := l.Append(storetest.Event("a", 3))[0]; !errors.As(out.Err, &fault) || !strings.Contains(out.Err.Error(), c.want) {
				t.Errorf("append: %+v, want %q", out, c.want)
			}
			if out := l.Append(storetest.Event("a", 1))[0]; !errors.As(out.Err, &fault) {
				t.Errorf("after the fault: %+v", out)
			}
			if err := l.Run(t.Context()); !errors.As(err, &fault) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

func TestTheLogIsAppendOnly(t *testing.T) {
	t.Parallel()
	db := pgtest.Start(t)
	l := opened(t, config(db.URL))
	l.Append(storetest.Event("a", 1))
	conn := db.Connect(t)
	for _, statement := range []string{"UPDATE audit.entries SET line = ''", "DELETE FROM audit.entries", "TRUNCATE audit.entries"} {
		if _, err := conn.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", statement, err)
		}
	}
}

func TestAServerThatMayLoseDataIsRefused(t *testing.T) {
	t.Parallel()
	_, err := pgledger.Open(t.Context(), config(pgtest.StartOwn(t, "fsync=off").Database(t).URL))
	var unsafe *postgres.UnsafeError
	if !errors.As(err, &unsafe) {
		t.Errorf("open: %v", err)
	}
}
