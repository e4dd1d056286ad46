package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/store"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// fill creates tasks whose titles are as long as they may be.
func fill(t *testing.T, s *store.Store, tasks int) {
	t.Helper()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range tasks / 8 {
				if _, err := s.Create(t.Context(), task.Create{Title: strings.Repeat("ö", task.MaxTitleRunes), Origin: origin}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

func publish(t *testing.T, s *store.Store, tasks int) {
	t.Helper()
	page, err := s.Next(t.Context(), 0, tasks, 1<<30)
	if err != nil || len(page.Rows) != tasks {
		t.Fatalf("%d rows, %v", len(page.Rows), err)
	}
	ids := make([]int64, len(page.Rows))
	for i, row := range page.Rows {
		ids[i] = row.ID
	}
	if err := s.Published(t.Context(), ids); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// What a purge frees is used again; what nobody has used until the next one is given back.
func TestTheFileGivesBackWhatAPurgeFreed(t *testing.T) {
	now := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	cfg := store.GiveBackAll(store.Config{Path: path(t), Now: func() time.Time { return now }})
	s, stop := start(t, cfg)
	if s.CannotShrink() != nil {
		t.Error(s.CannotShrink())
	}
	fill(t, s, 800)
	publish(t, s, 800)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Hour)
	var sizes [3]int64
	for i := range sizes {
		if sizes[i] = size(t, cfg.Path); i == 2 {
			break
		}
		s, err := store.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(store.Purge(s), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if sizes[1] < sizes[0]*9/10 || sizes[2] > sizes[0]*3/4 {
		t.Errorf("sizes before, after one purge and after two: %d, want a quarter less after the second", sizes)
	}
	if n := count(t, cfg.Path, "task"); n != 800 {
		t.Errorf("%d tasks are left of 800", n)
	}
}

// A file of an earlier version is rewritten when it is small or when that is asked for.
func TestAnOlderFileIsMadeShrinkable(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     func(store.Config) store.Config
		rewrite bool
	}{
		{"small", func(c store.Config) store.Config { return c }, true},
		{"large", store.GiveBackAll, false},
		{"large, asked for", func(c store.Config) store.Config { c.Compact = true; return store.GiveBackAll(c) }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := store.Config{Path: path(t) + " 'quoted'"}
			s, stop := start(t, cfg)
			fill(t, s, 80)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if mode := pragma(t, cfg.Path, "PRAGMA auto_vacuum = NONE; VACUUM; PRAGMA auto_vacuum"); mode != 0 {
				t.Fatalf("auto_vacuum %d, the file is not as an earlier version made it", mode)
			}
			s, stop = start(t, c.set(cfg))
			if shrinks := s.CannotShrink() == nil; shrinks != c.rewrite {
				t.Errorf("CannotShrink: %v", s.CannotShrink())
			}
			checkAgree(t, s, 80)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if mode := pragma(t, cfg.Path, "PRAGMA auto_vacuum"); (mode == 2) != c.rewrite {
				t.Errorf("auto_vacuum %d", mode)
			}
			if n := count(t, cfg.Path, "task"); n != 80 {
				t.Errorf("%d tasks are left of 80", n)
			}
		})
	}
}

func pragma(t *testing.T, path, statements string) (value int) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(statements).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// No list reads more than it gives, whatever is in the table: each is one walk
// along an index, or a merge of some.
func TestListsFollowAnIndex(t *testing.T) {
	cfg := store.Config{Path: path(t)}
	_, stop := start(t, cfg)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range store.ListQueries() {
		rows, err := db.Query("EXPLAIN QUERY PLAN "+query, "a", "b", "c", 1)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, detail)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		whole := fmt.Sprint(plan)
		want := "task_by_owner_and_status (owner_id=? AND status=? AND id>?)"
		if strings.Contains(whole, "TEMP B-TREE") || strings.Contains(whole, "SCAN") || strings.Contains(query, "owner_id =") && !strings.Contains(whole, want) {
			t.Errorf("%s\nis planned as %s", query, whole)
		}
	}
}
