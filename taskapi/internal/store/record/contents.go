package record

import (
	"iter"
	"time"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Contents is all that a store holds, to be copied into another one. A sequence
// ends with its first error.
type Contents struct {
	Fingerprint string // of these contents: equal for what nobody has changed since
	Tasks       iter.Seq2[task.Task, error]
	Events      iter.Seq2[Stored, error] // ascending ids
	Keys        iter.Seq2[Key, error]
}

// Stored is an outbox row.
type Stored struct {
	ID      int64
	TaskID  string
	Event   []byte
	At      time.Time
	Waiting bool // Kafka has not acknowledged it
}

// Key is an idempotency key with the first answer under it, as MarshalAnswer made it.
type Key struct {
	Value       string
	Fingerprint []byte
	Answer      string
	At          time.Time
}
