//go:build schemas

package manifests_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestCutSchemas writes those files in schemas/ whose CRDs come with a Go module: of each
// CRD what the manifests use, with every check that the operator's authors put on it.
//
//	go test -tags schemas -run TestCutSchemas ./manifests
func TestCutSchemas(t *testing.T) {
	objects := render(t, compose(t, []string{"overlays/scale", "components/httproute"}))
	// What is there to be uncommented is used, too.
	set(t, find(t, objects, "postgresql.cnpg.io/v1/Cluster postgres"), "spec.storage.storageClass", "premium-rwo")
	used := map[string]any{}
	for _, o := range objects {
		used[o.key()] = merge(used[o.key()], map[string]any(o))
	}
	for _, c := range []struct {
		file, module, version, dir string
		crds                       []string
	}{
		{"cnpg.yaml", "github.com/cloudnative-pg/cloudnative-pg", "v1.28.0", "config/crd/bases", []string{"postgresql.cnpg.io_clusters.yaml", "postgresql.cnpg.io_databases.yaml"}},
		{"gateway.yaml", "sigs.k8s.io/gateway-api", "v1.4.0", "config/crd/standard", []string{"gateway.networking.k8s.io_gateways.yaml", "gateway.networking.k8s.io_httproutes.yaml"}},
	} {
		out, err := exec.Command("go", "mod", "download", "-json", c.module+"@"+c.version).Output()
		var module struct{ Dir string }
		if err := json.Unmarshal(out, &module); err != nil || module.Dir == "" {
			t.Fatalf("go mod download: %v: %s", err, out)
		}
		if err != nil {
			t.Fatal(err)
		}
		docs := []string{}
		for _, crd := range c.crds {
			data, err := os.ReadFile(filepath.Join(module.Dir, c.dir, crd))
			if err != nil {
				t.Fatal(err)
			}
			docs = append(docs, cutCRD(t, data, used))
		}
		header := fmt.Sprintf("# The part of %s, %s/ (Apache License 2.0) that\n# the manifests use, cut out by ../cut_test.go. For checks only, not for running it.\n", c.module+"@"+c.version, c.dir)
		if err := os.WriteFile(filepath.Join("schemas", c.file), []byte(header+strings.Join(docs, "---\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// merge returns a value with the members of both; the items of a list are one.
func merge(a, b any) any {
	switch b := b.(type) {
	case map[string]any:
		of, _ := a.(map[string]any)
		all := maps.Clone(of)
		if all == nil {
			all = map[string]any{}
		}
		for name, v := range b {
			all[name] = merge(all[name], v)
		}
		return all
	case []any:
		var item any
		if of, _ := a.([]any); len(of) == 1 {
			item = of[0]
		}
		for _, v := range b {
			item = merge(item, v)
		}
		return []any{item}
	}
	return b
}

func cutCRD(t *testing.T, data []byte, used map[string]any) string {
	t.Helper()
	var crd struct {
		Metadata struct {
			Name        string
			Annotations map[string]string
		}
		Spec struct {
			Group    string
			Names    map[string]any
			Scope    string
			Versions []struct {
				Name    string
				Storage bool
				Schema  struct{ OpenAPIV3Schema map[string]any }
			}
		}
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		t.Fatal(err)
	}
	metadata := map[string]any{"name": crd.Metadata.Name, "labels": map[string]any{"app.kubernetes.io/part-of": "taskwire"}}
	if approved, ok := crd.Metadata.Annotations["api-approved.kubernetes.io"]; ok {
		metadata["annotations"] = map[string]any{"api-approved.kubernetes.io": approved}
	}
	var versions []any
	for _, v := range crd.Spec.Versions {
		of, ok := used[fmt.Sprintf("%s/%s/%s", crd.Spec.Group, v.Name, crd.Spec.Names["kind"])].(map[string]any)
		if !ok || !v.Storage {
			continue
		}
		delete(of, "apiVersion") // a cluster adds these three itself
		delete(of, "kind")
		delete(of, "metadata")
		versions = append(versions, map[string]any{"name": v.Name, "served": true, "storage": true,
			"schema": map[string]any{"openAPIV3Schema": cut(v.Schema.OpenAPIV3Schema, of)}})
	}
	if len(versions) != 1 {
		t.Fatalf("%s: %d versions are used, want 1", crd.Metadata.Name, len(versions))
	}
	out, err := yaml.Marshal(map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
		"spec": map[string]any{"group": crd.Spec.Group, "names": crd.Spec.Names, "scope": crd.Spec.Scope, "versions": versions},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// cut returns the part of a schema that checks v: its members, those that are required,
// and the rules and defaults that speak of no others.
func cut(s map[string]any, v any) map[string]any {
	left := maps.Clone(s)
	delete(left, "description")
	members, _ := v.(map[string]any)
	if properties, ok := s["properties"].(map[string]any); ok {
		required, _ := s["required"].([]any)
		kept := map[string]any{}
		for name, property := range properties {
			if of, ok := members[name]; ok || slices.Contains(required, any(name)) {
				kept[name] = cut(property.(map[string]any), of)
			}
		}
		left["properties"] = kept
	}
	if of, ok := s["additionalProperties"].(map[string]any); ok {
		left["additionalProperties"] = cut(of, nil)
	}
	if of, ok := s["items"].(map[string]any); ok {
		list, _ := v.([]any)
		left["items"] = cut(of, append(list, nil)[0])
	}
	known := names(left)
	if !knows(known, s["default"]) {
		delete(left, "default")
	}
	if rules, ok := s["x-kubernetes-validations"].([]any); ok {
		rules = slices.DeleteFunc(slices.Clone(rules), func(rule any) bool {
			for _, name := range member.FindAllStringSubmatch(rule.(map[string]any)["rule"].(string), -1) {
				if !known[name[1]] {
					return true
				}
			}
			return false
		})
		if left["x-kubernetes-validations"] = rules; len(rules) == 0 {
			delete(left, "x-kubernetes-validations")
		}
	}
	return left
}

// knows reports whether all members within a value have these names.
func knows(known map[string]bool, v any) bool {
	switch v := v.(type) {
	case map[string]any:
		for name, of := range v {
			if !known[name] || !knows(known, of) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(v, func(of any) bool { return !knows(known, of) })
	}
	return true
}

// member is what a rule reads of an object: `self.tls`, but not `self.all(`.
var member = regexp.MustCompile(`\.([A-Za-z]\w*)\b(?:[^\w(]|$)`)

// names are those of all members within a schema.
func names(s map[string]any) map[string]bool {
	all := map[string]bool{}
	properties, _ := s["properties"].(map[string]any)
	for name, property := range properties {
		all[name] = true
		maps.Copy(all, names(property.(map[string]any)))
	}
	for _, of := range []string{"items", "additionalProperties"} {
		if inner, ok := s[of].(map[string]any); ok {
			maps.Copy(all, names(inner))
		}
	}
	return all
}
