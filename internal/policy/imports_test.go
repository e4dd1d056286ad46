// Package policy_test checks the rules of the repository that the compiler does
// not: which package may import which, and what a program may link.
package policy_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/taskwire/taskwire/"

// imports maps each package folder to the imports of its non-test files. The
// files are parsed in this process because the test cache does not track what
// the child process `go list` reads.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	root := os.DirFS("../..")
	found := map[string][]string{}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "data") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		source, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		for _, spec := range file.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if !slices.Contains(found[dir], p) {
				found[dir] = append(found[dir], p)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < 10 {
		t.Fatalf("found %d packages, want at least 10: is this the right folder?", len(found))
	}
	return found
}

// rule lists the imports that the packages in and below a folder may have, beside
// each other and the standard library.
type rule struct {
	in      string
	ours    []string // packages of this module
	foreign []string // prefixes of other modules; "*" = all
	why     string
}

var rules = []rule{
	{"internal/child", []string{"internal/retry"}, nil, "for tests and tools: it must not know what it starts"},
	{"internal/env", nil, nil, "settings are read before anything else exists"},
	{"internal/event", nil, []string{"github.com/cloudevents/sdk-go/v2", "github.com/go-json-experiment/json"}, "the shared vocabulary is a leaf"},
	{"internal/failpoint", nil, nil, "a leaf that is empty in ordinary builds"},
	{"internal/check", nil, nil, "a judge that shares code with the judged shares its mistakes"},
	{"internal/freeport", nil, nil, "a listener and a counter"},
	{"internal/filelock", []string{"internal/ownfile"}, nil, "one system call"},
	{"internal/ownfile", nil, nil, "a leaf: what may stand in place of a program's files"},
	{"internal/build", nil, nil, "what the go command recorded, and nothing else"},
	{"internal/httpd", []string{"internal/build", "internal/env", "internal/latency", "internal/trace"}, []string{"*"}, "shared by all services, knows none"},
	{"internal/latency", nil, []string{"github.com/prometheus/client_golang"}, "a histogram and a clock"},
	{"internal/retry", nil, nil, "a timer and a random number"},
	{"internal/secretfile", nil, nil, "a file, a clock and a lock"},
	{"internal/process", []string{"internal/build", "internal/env"}, []string{"*"}, "shared by all mains, knows none"},
	{"internal/volume", []string{"internal/retry"}, []string{"github.com/prometheus/client_golang"}, "a loop, five error numbers and two metrics"},
	{"internal/postgres", nil, []string{"github.com/jackc/pgx/v5"}, "shared by services, knows none"},
	{"internal/kafka", []string{"internal/env", "internal/event", "internal/failpoint", "internal/retry"}, []string{"*"}, "no service inside"},
	{"internal/token", []string{"internal/secretfile"}, []string{"*"}, "shared by services, knows none"},
	{"internal/eventsign", []string{"internal/event", "internal/secretfile"}, []string{"github.com/go-json-experiment/json"}, "what a verifier must trust stays small"},
	{"internal/webhook", []string{"internal/secretfile"}, nil, "both ends of a post share it, and nothing else"},
	{"internal/registry", []string{"internal/env", "internal/retry"}, []string{"*"}, "no service inside"},
	{"schemas", nil, nil, "files"},
	{"taskapi/internal/avro", []string{"internal/event", "internal/registry", "internal/retry", "schemas"}, []string{"*"}, "what it encodes for is the relay's own interface"},
	{"internal/trace", []string{"internal/build", "internal/env", "internal/retry"}, []string{"*"}, "the only package that knows OpenTelemetry, and knows no service"},
	{"internal/sink", []string{"internal/env", "internal/event", "internal/httpd", "internal/token", "internal/trace", "internal/webhook"}, []string{"*"}, "no service inside"},
	{"taskapi/internal/task", nil, nil, "the domain imports the standard library only"},
	{"bridge/internal/track", nil, nil, "pure: no clock, goroutine or network can creep in"},
	{"bridge/internal/cesql", []string{"internal/event"}, nil, "pure: an expression and an event"},
	{"bridge/internal/seal", nil, nil, "pure: keys and bytes"},
	{"auditor/internal/index", nil, []string{"github.com/cockroachdb/pebble/v2"}, "derived from the log, which knows how to do without it"},
	{"auditor/internal/ledger", []string{"auditor/internal/index", "internal/ownfile", "internal/retry"}, []string{"golang.org/x/sys"}, "what an auditor must trust stays small"},
	{"auditor/internal/tree", nil, []string{"golang.org/x/mod/sumdb"}, "what an auditor must trust stays small"},
	{"auditor/internal/pgledger", []string{"auditor/internal/ledger", "internal/failpoint", "internal/postgres", "internal/retry"}, []string{"github.com/jackc/pgx/v5"}, "what an auditor must trust stays small"},
	{"taskapi/internal/store", []string{"taskapi/internal/task", "taskapi/internal/outbox", "internal/event", "internal/failpoint", "internal/filelock", "internal/ownfile", "internal/postgres", "internal/retry"}, []string{"*"}, "points inward"},
	{"taskapi/internal/store/record", []string{"taskapi/internal/task", "internal/event"}, nil, "what every store writes depends on none"},
	{"taskapi/internal/outbox", []string{"internal/event", "internal/failpoint", "internal/retry", "internal/trace"}, []string{"*"}, "meets Kafka through its own interface"},
	{"taskapi/internal/rest", []string{"taskapi/internal/task", "taskapi", "internal/httpd", "internal/token", "internal/trace"}, []string{"*"}, "points inward"},
	{"bridge/internal/group", []string{"internal/kafka", "internal/retry"}, []string{"*"}, "membership knows nothing of delivery"},
}

func TestImportsPointInward(t *testing.T) {
	all := imports(t)
	for _, r := range rules {
		matched := false
		for dir, list := range all {
			if (dir != r.in && !strings.HasPrefix(dir, r.in+"/")) || strings.HasSuffix(dir, "test") {
				continue
			}
			matched = true
			for _, p := range list {
				if !r.allows(p) {
					t.Errorf("%s imports %s: %s", dir, p, r.why)
				}
			}
		}
		if !matched {
			t.Errorf("the rule for %s matches no package: delete it or fix its name", r.in)
		}
	}
}

func (r rule) allows(p string) bool {
	if mine, ok := strings.CutPrefix(p, module); ok {
		return mine == r.in || strings.HasPrefix(mine, r.in+"/") || slices.Contains(r.ours, mine)
	}
	if first, _, _ := strings.Cut(p, "/"); !strings.Contains(first, ".") {
		return true // standard library
	}
	return slices.ContainsFunc(r.foreign, func(prefix string) bool { return prefix == "*" || strings.HasPrefix(p, prefix) })
}

// joins may import several services, as tests may.
var joins = []string{"internal/stack", "dev", "acceptance", "bench", "chaos"}

func TestServicesMeetOnTheWireOnly(t *testing.T) {
	services := []string{"taskapi", "bridge", "notifier", "auditor"}
	for dir, list := range imports(t) {
		top, _, _ := strings.Cut(dir, "/")
		for _, p := range list {
			mine, ok := strings.CutPrefix(p, module)
			owner, _, _ := strings.Cut(mine, "/")
			if !ok || !slices.Contains(services, owner) || owner == top {
				continue
			}
			if !slices.Contains(joins, dir) && !slices.Contains(joins, top) {
				t.Errorf("%s imports %s: services meet on the wire; only %v import several", dir, p, joins)
			}
		}
	}
}

func TestMainsAreThin(t *testing.T) {
	all := imports(t)
	for _, service := range []string{"taskapi", "bridge", "notifier", "auditor"} {
		for _, p := range all[service] {
			mine, ok := strings.CutPrefix(p, module)
			if ok && mine != "internal/process" && mine != service+"/app" {
				t.Errorf("%s/main.go imports %s: a main imports its app and internal/process", service, p)
			}
		}
	}
}

// The compiler would let a service import what is for tests: packages named for
// it, and those that look for ports or start brokers and whole systems.
func TestOnlyTestsImportTestPackages(t *testing.T) {
	forTests := []string{"internal/child", "internal/freeport", "internal/embedkafka", "internal/stack"}
	for dir, list := range imports(t) {
		top, _, _ := strings.Cut(dir, "/")
		if slices.Contains(joins, top) || slices.Contains(joins, dir) || strings.Contains(dir, "test") {
			continue
		}
		for _, p := range list {
			if mine, ok := strings.CutPrefix(p, module); ok && (strings.HasSuffix(mine, "test") || slices.Contains(forTests, mine)) {
				t.Errorf("%s imports %s: only tests and %v import it", dir, p, joins)
			}
		}
	}
}

func TestOnlyAppsReadTheEnvironment(t *testing.T) {
	allowed := []string{"internal/env", "internal/process", "internal/httpd", "internal/kafka", "internal/registry", "internal/sink", "internal/stack", "internal/trace", "dev"}
	for dir, list := range imports(t) {
		if slices.Contains(list, module+"internal/env") && !slices.Contains(allowed, dir) &&
			!strings.HasSuffix(dir, "/app") && !slices.Contains(joins, dir) && !strings.HasPrefix(dir, "chaos") && !strings.HasSuffix(dir, "test") {
			t.Errorf("%s imports internal/env: nothing below an app reads settings", dir)
		}
	}
}
