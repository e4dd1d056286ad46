// Package manifests_test renders what a cluster would get, decodes it as strictly
// as a cluster would, and checks it against rules. violations_test.go shows each
// rule failing. It needs no cluster and no network.
package manifests_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// object is one rendered object, decoded from JSON.
type object map[string]any

// key distinguishes a Knative Service from a Service.
func (o object) key() string { return o.text("apiVersion") + "/" + o.text("kind") }

func (o object) name() string      { return o.text("metadata", "name") }
func (o object) namespace() string { return o.text("metadata", "namespace") }
func (o object) String() string {
	return o.text("kind") + " " + strings.TrimPrefix(o.namespace()+"/", "/") + o.name()
}

// text returns the string at path, or "".
func (o object) text(path ...string) string {
	var v any = map[string]any(o)
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

// decode decodes the object into a struct with the members of interest.
func (o object) decode(into any) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// render does what `kubectl kustomize dir` does.
func render(t *testing.T, dir string) []object {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("kubectl kustomize %s: %v", dir, err)
	}
	var objects []object
	for _, r := range resources.Resources() {
		data, err := r.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := json.Unmarshal(data, &o); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, o)
	}
	return objects
}

// overlays returns the folders that are applied as they are.
func overlays(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("overlays/*/kustomization.yaml")
	if err != nil || len(found) < 4 {
		t.Fatalf("overlays = %v, %v; want at least four", found, err)
	}
	for i, f := range found {
		found[i] = filepath.Dir(f)
	}
	return found
}

// combinations returns every combination of the components, as folders in order:
// each Kafka, with and without each of the others, and what goes with some only.
func combinations() map[string][]string {
	kafkas := map[string][]string{
		"kafka-dev": {"overlays/kind"},
		"strimzi":   {"base", "components/strimzi"},
		"tls-sasl":  {"base", "components/strimzi", "components/tls-sasl"},
	}
	optional := []string{"keda", "knative", "monitoring"}
	all := map[string][]string{}
	for name, folders := range kafkas {
		for bits := range 1 << len(optional) {
			chosen, called := append([]string{}, folders[:min(2, len(folders))]...), name
			// What tls-sasl closes and what knative opens need auth, before either.
			if len(folders) > 2 || bits&0b010 != 0 {
				chosen = append(chosen, "components/auth")
			}
			for i, o := range optional {
				if bits&(1<<i) != 0 {
					chosen, called = append(chosen, "components/"+o), called+"+"+o
				}
			}
			// tls-sasl patches the others, so it comes last.
			all[called] = append(chosen, folders[min(2, len(folders)):]...)
		}
	}
	all["kafka-dev+postgres-dev+autoscale"] = []string{"overlays/kind", "components/postgres-dev", "components/autoscale"}
	all["kafka-dev+schema-registry"] = []string{"overlays/kind", "components/schema-registry"}
	all["strimzi+schema-registry"] = []string{"base", "components/strimzi", "components/schema-registry", "components/postgres-cnpg", "components/keda", "components/monitoring"}
	all["tls-sasl+try-it"] = []string{"base", "components/strimzi", "components/auth", "components/try-it", "components/tls-sasl"}
	all["kafka-dev+traces"] = []string{"overlays/kind", "components/traces"}
	all["serverless+traces"] = []string{"overlays/serverless", "components/traces"}
	all["strimzi+postgres-cnpg"] = []string{"base", "components/strimzi", "components/postgres-cnpg"}
	all["tls-sasl+ingress+httproute"] = []string{"base", "components/strimzi", "components/auth", "components/ingress", "components/httproute", "components/tls-sasl"}
	return all
}

// compose writes a kustomization of the folders, the first as a resource and the
// others as components, and returns its folder.
func compose(t *testing.T, folders []string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	relative := make([]string, len(folders))
	for i, f := range folders {
		from, err := filepath.Abs(f)
		if err != nil {
			t.Fatal(err)
		}
		if from, err = filepath.EvalSymlinks(from); err != nil {
			t.Fatal(err)
		}
		if relative[i], err = filepath.Rel(dir, from); err != nil {
			t.Fatal(err)
		}
	}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
		"resources": relative[:1], "components": relative[1:],
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// documents splits a YAML file.
func documents(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split("\n"+string(text), "\n---\n")
}

// TestFilesAreStrictAndUsed finds what kustomize accepts: a key given twice, and a
// file that no kustomization names.
func TestFilesAreStrictAndUsed(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		for _, doc := range documents(t, path) {
			if _, err := yaml.YAMLToJSONStrict([]byte(doc)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		folder, name := filepath.Split(path)
		if parent, ok := strings.CutSuffix(folder, "config/"); ok { // a folder of mounted files
			folder, name = parent, "config/"+name
		}
		if name == "kustomization.yaml" || folder == "schemas/" || folder == "kind/" || folder == "testdata/" {
			return nil
		}
		list, err := os.ReadFile(filepath.Join(folder, "kustomization.yaml"))
		if err != nil || !strings.Contains(string(list), name) {
			t.Errorf("no kustomization.yaml names %s (%v)", path, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
