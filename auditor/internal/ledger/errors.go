package ledger

import (
	"errors"
	"fmt"
	"time"
)

// ErrLocked: another process, or this one, has the log open.
var ErrLocked = errors.New("another auditor has the log open")

// ErrClosed: the ledger was closed.
var ErrClosed = errors.New("ledger closed")

// ErrBusy: more is waiting to be written than Config.MaxPending allows.
var ErrBusy = errors.New("too much is waiting to be written")

// ErrNotFound: the log has no entry of that number.
var ErrNotFound = errors.New("no such entry")

// A ConflictError: an event with this source and id, but other content, stands
// in the log at Seq. Nothing was written.
type ConflictError struct{ Seq int64 }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("entry %d has the same source and id and other content", e.Seq)
}

// An InvalidError: the entry cannot be stored as it is.
type InvalidError struct{ Attribute, Reason string }

func (e *InvalidError) Error() string {
	if e.Attribute == "" {
		return "entry " + e.Reason
	}
	return fmt.Sprintf("attribute %s: %s", e.Attribute, e.Reason)
}

// A FullError: there was no room for the batch, and the log was cut back to
// what it held before. A later append may succeed.
type FullError struct{ Err error }

func (e *FullError) Error() string { return "no room for the audit log: " + e.Err.Error() }
func (e *FullError) Unwrap() error { return e.Err }

// RetryAfter is how long a caller should wait before it tries again.
func (e *FullError) RetryAfter() time.Duration { return 5 * time.Second }

// A FaultError is final: what the disk holds is no longer known, so the ledger
// acknowledges nothing from here on and the process must end. A new process
// reads the log afresh.
type FaultError struct{ Err error }

func (e *FaultError) Error() string { return e.Err.Error() }
func (e *FaultError) Unwrap() error { return e.Err }

// A DamageError: the log is not what this package wrote, and the damage is not
// an unfinished last write. A person has to look at it.
type DamageError struct {
	Path   string
	Byte   int64
	Reason string
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("%s is damaged at byte %d: %s", e.Path, e.Byte, e.Reason)
}

// A LineError says where in a line the mistake is.
type LineError struct {
	Byte   int
	Reason string
}

func (e *LineError) Error() string { return fmt.Sprintf("byte %d of the line: %s", e.Byte, e.Reason) }
