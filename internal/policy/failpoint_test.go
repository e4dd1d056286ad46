package policy_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A released program must not be able to kill itself on demand: an ordinary build
// contains neither code of failpoints nor the variable that arms them. A build
// with the tag contains both, which shows that this test can fail.
func TestOrdinaryBuildsHoldNoFailpoints(t *testing.T) {
	for _, tag := range []string{"", "failpoint"} {
		bin := t.TempDir()
		build := exec.Command("go", "build", "-buildvcs=false", "-tags", tag, "-ldflags=-w", "-o", bin+"/",
			"../../taskapi", "../../bridge", "../../notifier", "../../auditor")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		for _, program := range []string{"taskapi", "bridge", "notifier", "auditor"} {
			want := tag != "" && program != "notifier" // it has no failpoint
			name := filepath.Join(bin, program)
			symbols, err := exec.Command("go", "tool", "nm", name).Output()
			if err != nil || !bytes.Contains(symbols, []byte(" main.main\n")) {
				t.Fatalf("list the symbols of %s: %v, %d bytes", program, err, len(symbols))
			}
			if got := bytes.Contains(symbols, []byte("taskwire/internal/failpoint.")); got != want {
				t.Errorf("%s with tag %q has symbols of failpoints = %v, want %v", program, tag, got, want)
			}
			image, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got := bytes.Contains(image, []byte("TASKWIRE_FAILPOINT")); got != want {
				t.Errorf("%s with tag %q names TASKWIRE_FAILPOINT = %v, want %v", program, tag, got, want)
			}
		}
	}
}
