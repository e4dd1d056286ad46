package app

import (
	"context"
	"io"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
)

// store is what the auditor needs of a ledger, whatever it is kept in. storetest
// is the suite that every one passes.
type store interface {
	// Append makes the entries durable and returns the outcome of each, in their
	// order. An entry without an error is on disk and will be found for ever.
	Append(entries ...ledger.Entry) []ledger.Outcome

	// Find calls yield with the entries after that number which match, in order,
	// until it returns false. The line has no line feed and is valid during the
	// call. Everything up to through was looked at; the log ends at Len.
	Find(ctx context.Context, after int64, f ledger.Filter, yield func(p ledger.Place, line []byte) bool) (through int64, err error)

	// Place is where an entry is, or ledger.ErrNotFound. Text reads it or a part of it.
	Place(ctx context.Context, seq int64) (ledger.Place, error)
	Text(ctx context.Context, p ledger.Place) io.Reader

	// Await waits for an entry above after to be on disk.
	Await(ctx context.Context, after int64) error

	Len() int64         // entries on disk
	VersionGaps() int64 // and those of them whose task version does not follow

	// Fault is why nothing is acknowledged any more, nil while all is well. Room is
	// why nothing can be stored just now.
	Fault() error
	Room() error

	// Run works until ctx ends or returns the fault. Close follows it.
	Run(ctx context.Context) error
	Close() error
}

var (
	_ store = (*ledger.Ledger)(nil)
	_ store = (*pgledger.Ledger)(nil)
)
