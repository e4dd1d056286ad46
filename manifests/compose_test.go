package manifests_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	auditor "github.com/taskwire/taskwire/auditor/app"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// composeProject reads compose.yaml as `docker compose` does.
func composeProject(t *testing.T) *types.Project {
	t.Helper()
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{WorkingDir: "..", ConfigFiles: []types.ConfigFile{{Filename: "../compose.yaml"}}, Environment: types.Mapping{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// programOf is the program of taskapi-2, "" for what is not ours.
func programOf(s types.ServiceConfig) string {
	name, _, _ := strings.Cut(s.Name, "-")
	if _, ok := read[name]; ok {
		return name
	}
	return ""
}

// Each program accepts its environment and reads all of it.
func TestComposeSettings(t *testing.T) {
	p := composeProject(t)
	replicas := map[string]int{}
	for _, s := range p.Services {
		program := programOf(s)
		if program == "" {
			continue
		}
		replicas[program]++
		vars := map[string]string{}
		for name, value := range s.Environment {
			vars[name] = *value
		}
		if vars["AUDIT_SIGNING_KEY_FILE"] != "" {
			vars["AUDIT_SIGNING_KEY_FILE"] = signingKey(t)
		}
		asked := map[string]bool{}
		set, err := read[program](func(key string) (string, bool) {
			asked[key] = true
			v, ok := vars[key]
			return v, ok
		})
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		for name := range vars {
			if !asked[name] {
				t.Errorf("%s: %s does not read %s", s.Name, program, name)
			}
		}
		if got := set.kafka.Brokers; len(got) > 0 && !slices.Equal(got, []string{"kafka:9092"}) {
			t.Errorf("%s: brokers %v", s.Name, got)
		}
		if set.data != "" {
			t.Errorf("%s writes %s, which is on no volume", s.Name, set.data)
		}
	}
	for program := range read {
		if replicas[program] != 2 {
			t.Errorf("%d of %s, want 2", replicas[program], program)
		}
	}
}

func signingKey(t *testing.T) string {
	t.Helper()
	var key bytes.Buffer
	if err := auditor.Key().Run(t.Context(), env.Map(nil), []string{"--new"}, &key, &key); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "audit.key")
	if err := os.WriteFile(name, key.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// What the addresses name exists, ports are those of the programs, and nothing is open to other machines.
func TestComposeAddresses(t *testing.T) {
	p := composeProject(t)
	known, published := map[string]bool{}, map[string]string{}
	for _, s := range p.Services {
		known[s.Name] = true
		for _, n := range s.Networks {
			if n != nil {
				for _, alias := range n.Aliases {
					known[alias] = true
				}
			}
		}
	}
	for _, s := range p.Services {
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is published on %q", s.Name, port.Published, port.HostIP)
			}
			if other := published[port.Published]; other != "" {
				t.Errorf("%s and %s publish %s", s.Name, other, port.Published)
			}
			published[port.Published] = s.Name
			if program := programOf(s); program != "" && port.Target != uint32(programs[program]) && port.Target != uint32(programs[program]+1000) {
				t.Errorf("%s: %s does not listen on %d", s.Name, program, port.Target)
			}
		}
		for name, value := range s.Environment {
			for _, address := range regexp.MustCompile(`(?:[/@]|^)([a-z0-9-]+):(\d+)`).FindAllStringSubmatch(*value, -1) {
				if host := address[1]; s.Name != "kafka" && !known[host] {
					t.Errorf("%s: %s names %s, which is no service", s.Name, name, net.JoinHostPort(host, address[2]))
				}
			}
		}
		if s.Name != "key" && (s.HealthCheck == nil || len(s.HealthCheck.Test) == 0 || s.Restart == "") {
			t.Errorf("%s: no health check, or no restart", s.Name)
		}
		if program := programOf(s); program != "" && s.HealthCheck.Test[len(s.HealthCheck.Test)-1] != fmt.Sprintf("http://127.0.0.1:%d/readyz", programs[program]+1000) {
			t.Errorf("%s: health check %v", s.Name, s.HealthCheck.Test)
		}
	}
	kafka := p.Services["kafka"]
	if kafka.Image != "apache/kafka:"+kafkatest.Version {
		t.Errorf("kafka is %s, the tests have %s", kafka.Image, kafkatest.Version)
	}
	onClusters, err := os.ReadFile("components/kafka-dev/kafka.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name := range kafka.Environment {
		if !strings.Contains(string(onClusters), "{name: "+name+",") {
			t.Errorf("kafka: %s is not among the settings that were tried on clusters", name)
		}
	}
}

// The Dockerfile has the programs that compose.yaml starts, and what .dockerignore leaves is all that they need.
func TestComposeImages(t *testing.T) {
	text, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	file := string(text)
	for _, s := range composeProject(t).Services {
		if s.Build == nil {
			continue
		}
		name := cmp.Or(programOf(s), "auditor")
		want := fmt.Sprintf("FROM base AS %s\nCOPY --from=build /out/%s /ko-app/%s\nENTRYPOINT [\"/ko-app/%s\"]\n", name, name, name, name)
		if s.Build.Target != name || !strings.Contains(file, want) {
			t.Errorf("%s is built from %q; the Dockerfile lacks\n%s", s.Name, s.Build.Target, want)
		}
	}
	build := regexp.MustCompile(`go build .*-o /out/ (.*)`).FindStringSubmatch(file)
	release := regexp.MustCompile(`FROM .*golang:([\d.]+)-`).FindStringSubmatch(file)
	if build == nil || release == nil {
		t.Fatal("the Dockerfile builds nothing")
	}
	if mod, err := os.ReadFile("../go.mod"); err != nil || !strings.Contains(string(mod), "\ngo "+release[1]) {
		t.Errorf("the Dockerfile has Go %s, and go.mod another (%v)", release[1], err)
	}
	list := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps", "-json=ImportPath,Error"}, strings.Fields(build[1])...)...)
	list.Dir = buildContext(t)
	list.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	out, err := list.CombinedOutput()
	if err != nil {
		t.Fatalf("in the context of the build: %v\n%s", err, out)
	}
	found := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var pkg struct{ ImportPath string }
		if err := dec.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(pkg.ImportPath, "github.com/taskwire/") {
			found++
		}
	}
	if found < 20 {
		t.Errorf("%d packages of ours, want all", found)
	}
}

// buildContext has what .dockerignore leaves of the tree.
func buildContext(t *testing.T) string {
	t.Helper()
	rules, err := os.ReadFile("../.dockerignore")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for line := range strings.Lines(string(rules)) {
		root, kept := strings.CutPrefix(strings.TrimSpace(line), "!")
		if !kept {
			continue
		}
		err := filepath.WalkDir(filepath.Join("..", root), func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil || d.IsDir() && d.Name() != "testdata":
				return err
			case d.IsDir():
				return fs.SkipDir
			case strings.HasSuffix(name, "_test.go"):
				return nil
			}
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, strings.TrimPrefix(name, ".."))
			if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
				return err
			}
			return os.WriteFile(to, content, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
