package ledger_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

// TestMain runs child when a test started this binary as a process that it kills
// or deprives of disk space.
func TestMain(m *testing.M) {
	if role := os.Getenv("LEDGER_TEST_CHILD"); role != "" {
		os.Exit(child(role, os.Args[len(os.Args)-1]))
	}
	ledger.DoNotSyncIndexes()
	goleak.VerifyTestMain(m)
}
