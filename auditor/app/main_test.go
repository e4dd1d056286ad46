package app_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/process"
)

// TestMain runs the test binary as the auditor itself when a test started it as one.
func TestMain(m *testing.M) {
	if os.Getenv("AUDITOR_TEST_PROCESS") != "" {
		process.Main("auditor", "", app.FromEnv, app.New, app.Cat())
	}
	goleak.VerifyTestMain(m)
}
