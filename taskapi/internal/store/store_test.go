package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/taskapi/internal/store"
	"github.com/taskwire/taskwire/taskapi/internal/store/record"
	"github.com/taskwire/taskwire/taskapi/internal/store/storetest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// victim makes this test binary write to a database until it is killed.
const victim = "TASKWIRE_STORE_VICTIM"

func TestMain(m *testing.M) {
	if path := os.Getenv(victim); path != "" {
		fmt.Fprintln(os.Stderr, load(path))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

var origin = task.Origin{CorrelationID: "c"}

// start opens cfg and runs it; the returned function stops and closes it once.
func start(t *testing.T, cfg store.Config) (*store.Store, func() error) {
	t.Helper()
	s, err := store.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, s.Close())
	})
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

func path(t *testing.T) string { return filepath.Join(t.TempDir(), "tasks.db") }

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, o storetest.Options) storetest.Store {
		s, _ := start(t, store.Config{Path: path(t), OutboxLimit: o.OutboxLimit, Now: o.Now, Signer: o.Signer})
		return s
	})
}

func TestStateSurvivesARestart(t *testing.T) {
	cfg := store.Config{Path: path(t), OutboxLimit: 2}
	s, stop := start(t, cfg)
	a, err := s.Create(t.Context(), task.Create{Title: "one", Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Next(t.Context(), 0, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Published(t.Context(), []int64{first.Rows[0].ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), task.Create{Title: "two", Origin: origin}); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, _ = start(t, cfg)
	if got, err := s.Get(t.Context(), a.Task.ID); err != nil || got != a.Task {
		t.Errorf("Get = %+v, %v", got, err)
	}
	second, err := s.Next(t.Context(), 0, 10, 1<<20)
	if err != nil || len(second.Rows) != 1 || second.Rows[0].ID <= first.Rows[0].ID {
		t.Errorf("rows after the restart = %v, %v; want the second only", second, err)
	}
	// The limit includes the events of an earlier process.
	if _, err := s.Create(t.Context(), task.Create{Title: "three", Origin: origin}); err != nil {
		t.Fatal(err)
	}
	var busy *task.BusyError
	if _, err := s.Create(t.Context(), task.Create{Title: "four", Origin: origin}); !errors.As(err, &busy) {
		t.Errorf("beyond the limit = %v", err)
	}
}

func TestASecondInstanceIsRefused(t *testing.T) {
	cfg := store.Config{Path: path(t)}
	_, stop := start(t, cfg)
	_, err := store.Open(t.Context(), cfg)
	if want := fmt.Sprintf("in use by another taskapi (process %d)", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Fatalf("second Open = %v, want a line that contains %q", err, want)
	}
	folder := filepath.Join(t.TempDir(), "other")
	if err := os.Symlink(filepath.Dir(cfg.Path), folder); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), store.Config{Path: filepath.Join(folder, filepath.Base(cfg.Path))}); err == nil {
		t.Error("the same file under another name was opened twice")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	start(t, cfg)
}

// None of the files that SQLite opens by name may be a link or writable by others.
func TestPlantedFilesAreRefused(t *testing.T) {
	for _, suffix := range []string{"", ".lock", "-wal", "-shm"} {
		victim := filepath.Join(t.TempDir(), "victim")
		if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := store.Config{Path: path(t)}
		if err := os.Symlink(victim, cfg.Path+suffix); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), cfg.Path+suffix+" is a symbolic link") {
			t.Errorf("%q is a link: Open = %v", suffix, err)
		}
		if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
			t.Errorf("%q: the file behind the link was changed: %q, %v", suffix, text, err)
		}
		if err := errors.Join(os.Remove(cfg.Path+suffix), os.WriteFile(cfg.Path+suffix, nil, 0o600), os.Chmod(cfg.Path+suffix, 0o666)); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "chmod o-w "+cfg.Path+suffix) {
			t.Errorf("%q may be written by others: Open = %v", suffix, err)
		}
	}
}

func TestForeignAndNewerFilesAreRefused(t *testing.T) {
	for name, script := range map[string]string{
		"another program": "CREATE TABLE t (x)",
		"schema":          "PRAGMA application_id = 1952543595; PRAGMA user_version = 99",
	} {
		p := path(t)
		db, err := sql.Open("sqlite", p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(script); err != nil {
			t.Fatal(err)
		}
		db.Close()
		if _, err := store.Open(t.Context(), store.Config{Path: p}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Open = %v, want a refusal that contains %q", err, name)
		}
	}
	p := path(t)
	if err := os.WriteFile(p, []byte(strings.Repeat("this is no database ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(t.Context(), store.Config{Path: p}); err == nil {
		t.Error("a text file was opened as a database")
	}
}

func TestPathsKeepTheirCharacters(t *testing.T) {
	p := filepath.Join(t.TempDir(), "a b?c#d%20é.db")
	_, stop := start(t, store.Config{Path: p})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want one that only its owner reads", info, err)
	}
}

func TestAnswersEndWithRun(t *testing.T) {
	s, stop := start(t, store.Config{Path: path(t)})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), task.Create{Title: "late"}); !errors.Is(err, task.ErrUnavailable) {
		t.Errorf("create after the end = %v, want task.ErrUnavailable", err)
	}
}

// A commit can fail, and it can fail although it happened. Neither is
// acknowledged, Run returns the fault, and no partial change is found later.
func TestACommitThatFails(t *testing.T) {
	for name, happened := range map[string]bool{"and did not happen": false, "although it happened": true} {
		t.Run(name, func(t *testing.T) {
			cfg := store.Config{Path: path(t)}
			s, err := store.Open(t.Context(), store.BreakCommit(cfg, 2, happened))
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.Run(t.Context()) }()
			if _, err := s.Create(t.Context(), task.Create{Title: "one", Origin: origin}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Create(t.Context(), task.Create{Title: "two", Origin: origin}); !errors.Is(err, task.ErrUnavailable) {
				t.Errorf("create = %v, want task.ErrUnavailable", err)
			}
			if err := <-done; err == nil || !strings.Contains(err.Error(), "commit to ") {
				t.Errorf("Run = %v, want the fault", err)
			}
			if _, err := s.Create(t.Context(), task.Create{Title: "three", Origin: origin}); !errors.Is(err, task.ErrUnavailable) {
				t.Errorf("create after the fault = %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s, _ = start(t, cfg)
			want := 1
			if happened {
				want = 2
			}
			checkAgree(t, s, want)
		})
	}
}

// checkAgree compares the two halves of every transaction: each task has
// exactly the events of its versions.
func checkAgree(t *testing.T, s *store.Store, tasks int) {
	t.Helper()
	versions := map[string]int64{}
	for _, e := range storetest.Events(t, s) {
		v, _ := event.TaskVersion(e)
		if versions[e.Subject()]++; versions[e.Subject()] != v {
			t.Errorf("task %s: event of version %d comes as number %d", e.Subject(), v, versions[e.Subject()])
		}
	}
	page, err := s.List(t.Context(), task.Filter{Limit: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, tk := range page.Tasks {
		if versions[tk.ID] != tk.Version {
			t.Errorf("task %s is at version %d with %d events", tk.ID, tk.Version, versions[tk.ID])
		}
	}
	if len(page.Tasks) != len(versions) || (tasks >= 0 && len(page.Tasks) != tasks) {
		t.Errorf("%d tasks, %d of them with events, want %d", len(page.Tasks), len(versions), tasks)
	}
}

// On a full disk a change is refused; earlier changes and the store are unharmed.
func TestAFullDiskIsTemporary(t *testing.T) {
	cfg := store.Config{Path: path(t)}
	s, _ := start(t, store.LimitPages(cfg, 40))
	var busy *task.BusyError
	made := 0
	for ; made < 10_000; made++ {
		_, err := s.Create(t.Context(), task.Create{Title: strings.Repeat("x", 500), Origin: origin})
		if errors.As(err, &busy) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if busy == nil || made == 0 {
		t.Fatalf("no refusal after %d tasks", made)
	}
	checkAgree(t, s, made)
	if page, err := s.List(t.Context(), task.Filter{Limit: 1}); err != nil || len(page.Tasks) != 1 {
		t.Errorf("reads on a full disk: %v", err)
	}
}

func TestPublishedRowsAndOldKeysArePurged(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	cfg := store.Config{Path: path(t), Retention: time.Hour, Now: func() time.Time { return now }}
	s, stop := start(t, cfg)
	for i := range 5 {
		key := task.IdempotencyKey{Value: fmt.Sprint(i)}
		if _, err := s.Create(t.Context(), task.Create{Title: "x", Origin: origin, IdempotencyKey: key}); err != nil {
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
	for _, step := range []struct {
		after      time.Duration
		rows, keys int
	}{{59 * time.Minute, 5, 5}, {2 * time.Minute, 2, 5}, {24 * time.Hour, 2, 0}} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		now = now.Add(step.after)
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Purge(s); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if rows, keys := count(t, cfg.Path, "outbox"), count(t, cfg.Path, "idempotency"); rows != step.rows || keys != step.keys {
			t.Errorf("%v later: %d rows and %d keys, want %d and %d", step.after, rows, keys, step.rows, step.keys)
		}
	}
}

func count(t *testing.T, path, table string) (n int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// load creates and completes tasks from many goroutines and prints one line for
// each change, after the store acknowledged it.
func load(path string) error {
	s, err := store.Open(context.Background(), store.Config{Path: path})
	if err != nil {
		return err
	}
	go func() {
		for {
			page, err := s.Next(context.Background(), 0, 10, 1<<20)
			if err == nil && len(page.Rows) == 10 {
				_ = s.Published(context.Background(), nil) // joins the commits as the relay does
			}
		}
	}()
	var mu sync.Mutex
	acknowledged := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for range 16 {
		go func() {
			for {
				a, err := s.Create(context.Background(), task.Create{Title: "load", Origin: origin})
				if err != nil {
					return
				}
				acknowledged("%s 1", a.Task.ID)
				if _, err := s.Update(context.Background(), task.Update{ID: a.Task.ID, Patch: task.Complete(), Origin: origin}); err != nil {
					return
				}
				acknowledged("%s 2", a.Task.ID)
			}
		}()
	}
	return s.Run(context.Background())
}

// Killed at any moment, the store has every acknowledged task in at least the
// acknowledged version, and exactly one outbox row for every version.
func TestNothingAcknowledgedIsLostWhenKilled(t *testing.T) {
	p := path(t)
	acknowledged := map[string]int64{}
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), victim+"="+p)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var id string
			var version int64
			// The last line may be torn by the kill; a torn acknowledgement was not given.
			if _, err := fmt.Sscanf(lines.Text(), "%36s %d", &id, &version); err == nil {
				acknowledged[id] = max(acknowledged[id], version)
			}
			if n == 200+round*137 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // "signal: killed", as asked
	}
	s, _ := start(t, store.Config{Path: p})
	for id, version := range acknowledged {
		got, err := s.Get(t.Context(), id)
		if err != nil || got.Version < version {
			t.Errorf("task %s was acknowledged at version %d and is %+v, %v", id, version, got, err)
		}
	}
	checkAgree(t, s, -1)
	if len(acknowledged) < 200 {
		t.Errorf("only %d tasks acknowledged; the load did not run", len(acknowledged))
	}
}

func TestIDsAreInOrderOfTime(t *testing.T) {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 5000 {
		id := record.NewID(at.Add(time.Duration(i) * time.Microsecond))
		if _, err := task.ParseUUID(id); err != nil || id[14] != '7' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Fatalf("%q is no UUIDv7", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Error("ids are not in order of time")
	}
}

func BenchmarkCreate(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Path: filepath.Join(b.TempDir(), "tasks.db"), OutboxLimit: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	b.SetParallelism(32) // 64 callers on two cores
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Create(context.Background(), task.Create{Title: "Buy milk", Origin: origin}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	cancel()
	wg.Wait()
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
