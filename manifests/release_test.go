package manifests_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReleasedManifests makes the archive of a release as release.yml does, from what
// ko writes, and renders each overlay in it: images by digest, and the version.
func TestReleasedManifests(t *testing.T) {
	work, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".ci", "manifests"} {
		if err := os.CopyFS(filepath.Join(work, name), os.DirFS(filepath.Join("..", name))); err != nil {
			t.Fatal(err)
		}
	}
	var images strings.Builder // for each service its index, then its platforms
	for _, name := range []string{"taskapi", "bridge", "notifier", "auditor"} {
		for _, digit := range []string{"1", "2", "3"} {
			fmt.Fprintf(&images, "ghcr.io/taskwire/%s@sha256:%s\n", name, strings.Repeat(digit, 64))
		}
	}
	if err := os.MkdirAll(filepath.Join(work, "dist"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "dist/images"), []byte(images.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", filepath.Join(work, ".ci/manifests-release"))
	cmd.Env = append(os.Environ(), "TAG=v1.2.3")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unpacked := filepath.Join(work, "user")
	if err := os.MkdirAll(unpacked, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "xzf", filepath.Join(work, "dist/taskwire_1.2.3_manifests.tar.gz"), "-C", unpacked).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	pinned := regexp.MustCompile(`^ghcr\.io/taskwire/(\w+)@sha256:1{64}$`)
	for _, dir := range overlays(t) {
		for _, l := range inspect(t, render(t, filepath.Join(unpacked, "taskwire_1.2.3", dir))).ours() {
			if m := pinned.FindStringSubmatch(l.container().Image); m == nil || m[1] != l.program {
				t.Errorf("%s: %s has the image %s, want that of the release by digest", dir, l, l.container().Image)
			}
			if v := l.template.Labels["app.kubernetes.io/version"]; v != "1.2.3" {
				t.Errorf("%s: %s has the version %q, want 1.2.3", dir, l, v)
			}
		}
	}
}
