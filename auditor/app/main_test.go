package app_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/process"
)

// TestMain runs the auditor when a test started this binary as one.
func TestMain(m *testing.M) {
	if os.Getenv("AUDITOR_TEST_PROCESS") != "" {
		process.Main("auditor", "", app.FromEnv, app.New, app.Cat(), app.Reconcile())
	}
	goleak.VerifyTestMain(m)
}
