package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/check"
)

// Every point in the product has a strike, and every strike a point.
func TestEveryPointIsSwept(t *testing.T) {
	call := regexp.MustCompile(`(?:Hit|HitAfter|Answers|HalfWrites)\("([A-Z]\d)"(?:, "([A-Z]\d)")?`)
	found := map[string]bool{}
	for _, root := range []string{"taskapi", "bridge", "auditor", "internal"} {
		err := fs.WalkDir(os.DirFS("../"+root), ".", func(name string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(filepath.Join("..", root, name))
			for _, m := range call.FindAllStringSubmatch(string(text), -1) {
				found[m[1]] = true
				found[m[2]] = m[2] != ""
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	delete(found, "")
	swept := map[string]bool{}
	for _, s := range strikes() {
		swept[s.name] = true
	}
	for point := range found {
		if !swept[point] {
			t.Errorf("%s is in the product and has no strike", point)
		}
	}
	for name := range swept {
		if point, _, _ := strings.Cut(name, "-"); !found[point] {
			t.Errorf("strike %s: no such point in the product", name)
		}
	}
	if len(found) < 25 {
		t.Errorf("only %d points found: %v", len(found), found)
	}
}

func TestLoggedWantsTheLineOfEveryPlan(t *testing.T) {
	plans := []string{"U2:kill@3", "U3:error@10,U1:power@400"}
	log := "x\nfailpoint U2: kill at hit 3\nfailpoint U3: error at hit 10\n"
	if !logged([]byte(log), plans) {
		t.Error("both lines are there, logged is false")
	}
	for _, line := range strings.SplitAfter(log, "\n")[1:3] {
		if logged([]byte(strings.Replace(log, line, "", 1)), plans) {
			t.Errorf("true without %q", line)
		}
		if logged([]byte(strings.Replace(log, "\nfailpoint", "\nfailpoint other", 2)), plans) {
			t.Error("true with the line of another point")
		}
	}
}

// A mutant that cannot be built would silently prove nothing.
func TestMutantsFitTheTree(t *testing.T) {
	patches, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(patches) < 12 {
		t.Fatalf("%d patches: %v", len(patches), err)
	}
	for _, patch := range patches {
		if _, err := (mutants{settings: settings{Database: "sqlite"}}).read(patch); err != nil {
			t.Errorf("%s: %v", patch, err)
		}
		abs, err := filepath.Abs(patch)
		if err != nil {
			t.Fatal(err)
		}
		dry := exec.Command("patch", "-p1", "--batch", "--dry-run", "-i", abs)
		dry.Dir = ".."
		if out, err := dry.CombinedOutput(); err != nil {
			t.Errorf("%s does not apply: %v\n%s", patch, err, out)
		}
	}
}

func TestMutantIsCaughtByTheRuleItNames(t *testing.T) {
	for _, c := range []struct {
		name    string
		broken  map[string]int
		verdict string
		mutated bool
		ok      bool
	}{
		{"the rule", map[string]int{"LOST": 1}, "RED", true, true},
		{"another rule", map[string]int{"STUCK": 1}, "RED", true, false},
		{"none", nil, "GREEN", true, false},
		{"too little", nil, "INVALID", true, false},
		{"the tree as it is", nil, "GREEN", false, true},
		{"the tree blamed", map[string]int{"LOST": 1}, "RED", false, false},
		{"the tree idle", nil, "INVALID", false, false},
	} {
		rep := &check.Report{Verdict: c.verdict, Violations: c.broken}
		if _, ok := judged(rep, nil, []string{"LOST"}, c.mutated); ok != c.ok {
			t.Errorf("%s: ok = %v, want %v", c.name, ok, c.ok)
		}
	}
}
