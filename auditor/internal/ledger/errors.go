package ledger

import (
	"errors"
	"fmt"
	"time"
)

// ErrLocked: another process, or this one, has the log open.
var ErrLocked = errors.New("another auditor has the log open; stop it or set AUDIT_LOG_PATH to a new file")

// ErrOriginal: the file is an audit log of the original Python system. Its lines
// have neither a number nor the event's other attributes, so this package cannot
// continue it.
var ErrOriginal = errors.New("an audit log of the original Python system, which has another format; rename it or set AUDIT_LOG_PATH to a new file")

// ErrClosed: the ledger was closed.
var ErrClosed = errors.New("ledger closed")

// ErrBusy: Config.MaxPending bytes wait to be written.
var ErrBusy = errors.New("too many entries wait to be written")

// ErrNotFound: the log has no entry of that number.
var ErrNotFound = errors.New("no such entry")

// A ConflictError: entry Seq has this source and id and other content. Nothing
// was written.
type ConflictError struct{ Seq int64 }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("entry %d has the same source and id and other content", e.Seq)
}

// An InvalidError: the entry cannot be stored.
type InvalidError struct{ Attribute, Reason string }

func (e *InvalidError) Error() string {
	if e.Attribute == "" {
		return "entry " + e.Reason
	}
	return fmt.Sprintf("attribute %s: %s", e.Attribute, e.Reason)
}

// A FullError: there was no room for the batch, and the log was cut back to its
// previous length. A later append may succeed.
type FullError struct{ Err error }

func (e *FullError) Error() string { return "no room for the audit log: " + e.Err.Error() }
func (e *FullError) Unwrap() error { return e.Err }

// RetryAfter is how long a caller should wait before it tries again.
func (e *FullError) RetryAfter() time.Duration { return 5 * time.Second }

// A FaultError is final: what the disk holds is unknown, so the ledger
// acknowledges nothing from here on and the process must exit. A new process
// reads the log again.
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

// A LineError is a line that this package did not write, with the position of the mistake.
type LineError struct {
	Byte   int
	Reason string
}

func (e *LineError) Error() string { return fmt.Sprintf("byte %d of the line: %s", e.Byte, e.Reason) }
