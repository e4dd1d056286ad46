package pgstore_test

import (
	"errors"
	"testing"

	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// A COMMIT that waits for a standby and is cancelled has happened on one disk only, and
// everybody sees it. Neither it nor a repeat is answered before a standby has it.
func TestNoAnswerBeforeTheStandby(t *testing.T) {
	t.Parallel()
	db := pgtest.StartOwn(t).Database(t)
	s, _ := start(t, config(db))
	a, err := s.Create(t.Context(), task.Create{Title: "x", Origin: origin})
	if err != nil {
		t.Fatal(err)
	}
	standby := pgtest.AwayStandby(t, db)
	create := task.Create{Title: "y", Origin: origin, IdempotencyKey: key("create")}
	update := task.Update{ID: a.Task.ID, Patch: task.Patch{Title: new("z")}, Origin: origin}
	for _, c := range []struct {
		what string
		call func() (task.Answer, error)
	}{
		{"create", func() (task.Answer, error) { return s.Create(t.Context(), create) }},
		{"the same create", func() (task.Answer, error) { return s.Create(t.Context(), create) }},
		{"update", func() (task.Answer, error) { return s.Update(t.Context(), update) }},
		{"the same update, without a key", func() (task.Answer, error) { return s.Update(t.Context(), update) }},
	} {
		answered := make(chan error, 1)
		go func() { _, err := c.call(); answered <- err }()
		standby.Cancel("taskapi")
		if err := <-answered; !errors.Is(err, task.ErrUnavailable) {
			t.Errorf("%s whose commit was cancelled = %v, want that it is unknown", c.what, err)
		}
	}
	answered := make(chan task.Answer, 1)
	go func() {
		again, err := s.Create(t.Context(), create)
		if err != nil {
			t.Error(err)
		}
		answered <- again
	}()
	standby.AwaitCommit("taskapi")
	standby.Returns()
	if again := <-answered; !again.Replayed || again.Task.Title != "y" {
		t.Errorf("create, with a standby = %+v, want the answer of the first", again)
	}
}
