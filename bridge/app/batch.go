package app

import (
	"fmt"
	"slices"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
)

// Batch limits the batches of the modes batch and auto.
type Batch struct {
	Size  int  `yaml:"size"`  // events
	Bytes Size `yaml:"bytes"` // of the body; a longer event goes alone
}

// Size is a number of bytes, written as 512KiB.
type Size int64

// UnmarshalText reads what MarshalText writes, and a plain number.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := env.ParseBytes(string(text))
	*s = Size(n)
	return err
}

// MarshalText writes the size in the largest unit that keeps it whole.
func (s Size) MarshalText() ([]byte, error) {
	for shift, unit := range map[int]string{30: "GiB", 20: "MiB", 10: "KiB"} {
		if n := s >> shift; n > 0 && n<<shift == s && (n%1024 != 0 || shift == 30) {
			return fmt.Append(nil, int64(n), unit), nil
		}
	}
	return fmt.Append(nil, int64(s)), nil
}

const (
	smallestBatch = 1 << 10
	largestBatch  = 8 << 20
	mostEvents    = 500 // in a batch: their offsets are in one header, of which servers take 8 KiB
)

// filled sets the defaults. They are there in every mode, so that one key is all
// that a change of the mode takes.
func (b Batch) filled() Batch {
	if b.Size == 0 {
		b.Size = 100
	}
	if b.Bytes == 0 {
		b.Bytes = 512 << 10
	}
	return b
}

// checkMode names what is wrong with the form of the posts.
func (s Subscription) checkMode() []string {
	var wrong []string
	if !slices.Contains([]pump.Mode{pump.Structured, pump.Binary, pump.Batched, pump.Auto}, s.Mode) {
		wrong = append(wrong, "mode: want structured, binary, batch or auto")
	}
	if s.Batch.Size < 1 || s.Batch.Size > mostEvents {
		wrong = append(wrong, fmt.Sprintf("batch.size: want 1 to %d events", mostEvents))
	}
	if s.Batch.Bytes < smallestBatch || s.Batch.Bytes > largestBatch {
		wrong = append(wrong, "batch.bytes: want 1KiB to 8MiB")
	}
	// One event of a batch may fail and the next be accepted. In the order of the
	// partition each batch would have one event.
	if s.Mode == pump.Batched && s.Order == pump.ByPartition {
		wrong = append(wrong, "order: partition lets one event at a time be in flight, so there are no batches; want key or none with mode batch, or another mode")
	}
	return wrong
}
