package task

import (
	"context"
	"errors"
	"time"
)

// KeyLifetime is how long an idempotency key is remembered.
const KeyLifetime = 24 * time.Hour

// The reasons for which a Store refuses a request. After any other error the
// change was not made, or it is unknown whether it was.
var (
	ErrNotFound  = errors.New("no such task")
	ErrVersion   = errors.New("task has another version")
	ErrKeyReused = errors.New("idempotency key was used for another request")
)

// BusyError refuses a change for now: nothing was written.
type BusyError struct {
	Reason     string
	RetryAfter time.Duration
}

func (e *BusyError) Error() string { return e.Reason }

// Origin is where a change came from; the event carries it.
type Origin struct {
	CorrelationID string
	Actor         string // name of the token, "" when the API is open
	TraceParent   string
	TraceState    string
}

// IdempotencyKey makes a request repeatable: the second time with the same key
// within KeyLifetime, the first answer is given again and nothing is written.
// The zero value means no key.
type IdempotencyKey struct {
	Value       string   // includes the caller's name, so that callers cannot collide
	Fingerprint [32]byte // of everything the answer depends on; another one is ErrKeyReused
}

// Create asks for a new task.
type Create struct {
	Title          string // as ParseTitle gives it
	OwnerID        string
	Origin         Origin
	IdempotencyKey IdempotencyKey
}

// Update asks for a change of the task ID.
type Update struct {
	ID             string
	Patch          Patch
	Match          []int64 // nil: any version; else the task must be at one of these
	Origin         Origin
	IdempotencyKey IdempotencyKey
}

// Answer is the task after the request. Replayed means a repeat under an
// idempotency key; Task is then as it was in the first answer.
type Answer struct {
	Task     Task
	Kind     Kind
	Replayed bool
}

// Filter selects tasks for a list. Zero values select everything.
type Filter struct {
	Status  Status
	OwnerID string
	After   string // id of the last task of the page before
	Limit   int
}

// Page is one page of a list, oldest task first.
type Page struct {
	Tasks []Task
	More  bool // the list goes on after the last task
}

// Store keeps tasks.
//
// A change, its outbox row and its idempotency key are one transaction, and
// Create and Update return nil only after it is on disk. The version of a task
// is assigned while no other change of that task can run, so versions have
// neither gaps nor repeats, and outbox rows of one task are in version order.
// An error leaves none of the three behind, except when the commit itself
// could not be confirmed.
type Store interface {
	Create(ctx context.Context, c Create) (Answer, error)
	Update(ctx context.Context, u Update) (Answer, error)
	Get(ctx context.Context, id string) (Task, error)
	List(ctx context.Context, f Filter) (Page, error)
}

// ErrUnavailable means that the store cannot work now; whether the change was
// made is unknown. A repeat under the same idempotency key finds out.
var ErrUnavailable = errors.New("task store unavailable")
