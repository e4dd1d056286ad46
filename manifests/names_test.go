package manifests_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// skaffold is the part of skaffold/v4beta13 that skaffold.yaml may use.
type skaffold struct {
	APIVersion string                `json:"apiVersion"`
	Kind       string                `json:"kind"`
	Metadata   struct{ Name string } `json:"metadata"`
	skaffoldConfig
	Profiles []struct {
		Name string `json:"name"`
		skaffoldConfig
	} `json:"profiles"`
}

type skaffoldConfig struct {
	Build struct {
		Local     struct{ Push *bool } `json:"local"`
		TagPolicy struct {
			InputDigest *struct{} `json:"inputDigest"`
		} `json:"tagPolicy"`
		Artifacts []struct {
			Image string `json:"image"`
			Ko    struct {
				Main         string   `json:"main"`
				Flags        []string `json:"flags"`
				Dependencies struct {
					Paths  []string `json:"paths"`
					Ignore []string `json:"ignore"`
				} `json:"dependencies"`
			} `json:"ko"`
		} `json:"artifacts"`
	} `json:"build"`
	Manifests struct {
		Kustomize struct {
			Paths []string `json:"paths"`
		} `json:"kustomize"`
	} `json:"manifests"`
	Deploy struct {
		Kubectl                    *struct{} `json:"kubectl"`
		StatusCheckDeadlineSeconds int       `json:"statusCheckDeadlineSeconds"`
		StatusCheck                *bool     `json:"statusCheck"`
	} `json:"deploy"`
	PortForward []struct {
		ResourceType string `json:"resourceType"`
		ResourceName string `json:"resourceName"`
		Namespace    string `json:"namespace"`
		Port         int32  `json:"port"`
		LocalPort    int32  `json:"localPort"`
	} `json:"portForward"`
}

// TestSkaffold: the images are the programs, the forwarded ports are those of
// SPEC.md, and the profiles deploy existing overlays.
func TestSkaffold(t *testing.T) {
	text, err := os.ReadFile("../skaffold.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c skaffold
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		t.Fatal(err)
	}
	if c.APIVersion != "skaffold/v4beta13" || c.Kind != "Config" {
		t.Errorf("skaffold.yaml is a %s %s, want skaffold/v4beta13 Config", c.APIVersion, c.Kind)
	}
	if len(c.Build.Artifacts) != len(programs) || len(c.PortForward) != 2*len(programs) {
		t.Errorf("%d images and %d forwarded ports, want %d and twice as many", len(c.Build.Artifacts), len(c.PortForward), len(programs))
	}
	for _, a := range c.Build.Artifacts {
		if programs[a.Image] == 0 || a.Ko.Main != "./"+a.Image {
			t.Errorf("image %q is built from %q, want a program of that name", a.Image, a.Ko.Main)
		}
	}
	for _, p := range c.PortForward {
		if p.ResourceType != "service" || p.Namespace != taskwire || p.Port%1000 != programs[p.ResourceName]%1000 || p.Port/1000 != 8 && p.Port/1000 != 9 || p.LocalPort != p.Port {
			t.Errorf("port forward = %+v, want a port of a service to itself", p)
		}
	}
	deployed := slices.Clone(c.Manifests.Kustomize.Paths)
	for _, p := range c.Profiles {
		deployed = append(deployed, p.Manifests.Kustomize.Paths...)
	}
	var have []string
	for _, dir := range overlays(t) {
		have = append(have, "manifests/"+dir)
	}
	slices.Sort(deployed)
	if diff := cmp.Diff(have, deployed); diff != "" {
		t.Errorf("overlays with a profile (-want +got):\n%s", diff)
	}
	for _, p := range c.Profiles {
		for _, dir := range p.Manifests.Kustomize.Paths {
			w := inspect(t, render(t, strings.TrimPrefix(dir, "manifests/")))
			// The certificate of the brokers can be copied only after the deployment.
			if waits := p.Deploy.StatusCheck == nil || *p.Deploy.StatusCheck; waits == w.guarded() {
				t.Errorf("profile %s waits for pods = %v, and they wait for a copied Secret = %v", p.Name, waits, w.guarded())
			}
			if pushed := p.Build.Local.Push != nil && *p.Build.Local.Push; pushed != w.guarded() {
				t.Errorf("profile %s pushes images = %v, want %v", p.Name, pushed, w.guarded())
			}
		}
	}
	for _, typo := range []string{"portForwards: []", "build: {artefacts: []}", "profiles: [{nam: x}]"} {
		if yaml.UnmarshalStrict([]byte(typo), &c) == nil {
			t.Errorf("%s was accepted, want an error", typo)
		}
	}
}

// TestImageBaseIsPinned: a tag may change, a digest cannot.
func TestImageBaseIsPinned(t *testing.T) {
	text, err := os.ReadFile("../.ko.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var ko struct {
		DefaultBaseImage string `json:"defaultBaseImage"`
		Builds           []struct {
			ID      string   `json:"id"`
			Main    string   `json:"main"`
			Flags   []string `json:"flags"`
			Ldflags []string `json:"ldflags"`
			Env     []string `json:"env"`
		} `json:"builds"`
	}
	if err := yaml.UnmarshalStrict(text, &ko); err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^gcr\.io/distroless/static-debian\d+:nonroot@sha256:[0-9a-f]{64}$`).MatchString(ko.DefaultBaseImage) {
		t.Errorf("base image = %s, want a static nonroot one by digest", ko.DefaultBaseImage)
	}
	for _, b := range ko.Builds {
		if programs[b.ID] == 0 || b.Main != "./"+b.ID || !slices.Contains(b.Env, "CGO_ENABLED=0") {
			t.Errorf("build = %+v, want a program of that name with CGO_ENABLED=0", b)
		}
	}
}
