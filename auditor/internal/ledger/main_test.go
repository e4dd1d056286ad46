package ledger_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the test binary as a process of its own when a test started it
// to be killed or starved of disk.
func TestMain(m *testing.M) {
	if role := os.Getenv("LEDGER_TEST_CHILD"); role != "" {
		os.Exit(child(role, os.Args[len(os.Args)-1]))
	}
	goleak.VerifyTestMain(m)
}
