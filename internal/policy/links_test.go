package policy_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestProgramsLinkNoTestPlumbing asks the build what each program would link.
// The answer is not tracked by the test cache: run with -count=1, as make test does.
func TestProgramsLinkNoTestPlumbing(t *testing.T) {
	forbidden := []string{"/internal/child", "/internal/embedkafka", "/internal/kafkatest", "/internal/stack", "/franz-go", "goleak", "testscript", "k8s.io/"}
	for _, service := range []string{"taskapi", "bridge", "notifier", "auditor"} {
		out, err := exec.Command("go", "list", "-deps", "../../"+service).CombinedOutput()
		if err != nil {
			t.Fatalf("go list -deps %s: %v\n%s", service, err, out)
		}
		deps := strings.Fields(string(out))
		for _, dep := range deps {
			if dep == "testing" {
				t.Errorf("%s links the package testing", service)
			}
			for _, f := range forbidden {
				if strings.Contains(dep, f) {
					t.Errorf("%s links %s", service, dep)
				}
			}
		}
	}
}
