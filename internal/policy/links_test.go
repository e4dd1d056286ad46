package policy_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestProgramsLinkNoTestPackages lists what each program links. The test cache does
// not track it: run with -count=1, as make test does.
func TestProgramsLinkNoTestPackages(t *testing.T) {
	forbidden := []string{"/internal/apptest", "/internal/child", "/internal/embedkafka", "/internal/freeport", "/internal/kafkatest", "/internal/openapitest", "/internal/pgtest", "/internal/registrytest", "/internal/stack", "/franz-go/pkg/k", "/franz-go/pkg/sr/", "goleak", "testscript", "k8s.io/"}
	for _, service := range []string{"taskapi", "bridge", "notifier", "auditor"} {
		out, err := exec.Command("go", "list", "-deps", "../../"+service).CombinedOutput()
		if err != nil {
			t.Fatalf("go list -deps %s: %v\n%s", service, err, out)
		}
		deps := strings.Fields(string(out))
		for _, dep := range deps {
			if dep == "testing" {
				t.Errorf("%s links testing, want no test package", service)
			}
			for _, f := range forbidden {
				if strings.Contains(dep, f) {
					t.Errorf("%s links %s, want no test package", service, dep)
				}
			}
		}
	}
}
