package registrytest

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed" // the pom
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/taskwire/taskwire/internal/toolcache"
)

// Version is the Apicurio Registry that Fetch gets.
const Version = "3.0.9"

//go:embed pom.xml
var pom []byte

//go:embed parent.xml
var parent []byte

// Fetch returns the folder with the registry, <module root>/.cache/registry/..., and
// downloads it with Maven if necessary, with reports to progress. Several processes
// may call it at once: one downloads, the others wait.
func Fetch(ctx context.Context, progress io.Writer) (dir string, err error) {
	sum := sha256.Sum256(pom)
	return toolcache.Keep(ctx, filepath.Join("registry", fmt.Sprintf("%s-%x", Version, sum[:4])), func(part string) error {
		mvn, err := exec.LookPath("mvn")
		if err != nil {
			return errors.New("no mvn on the PATH: Maven downloads the Schema Registry; install it (Debian: apt-get install maven)")
		}
		file := filepath.Join(part, "pom.xml")
		above := filepath.Join(part, "parent", "io", "apicurio", "apicurio-registry", Version)
		if err := errors.Join(os.WriteFile(file, pom, 0o644), os.MkdirAll(above, 0o755),
			os.WriteFile(filepath.Join(above, "apicurio-registry-"+Version+".pom"), parent, 0o644)); err != nil {
			return err
		}
		fmt.Fprintf(progress, "downloading Apicurio Registry %s with Maven (109 MB, once)\n", Version)
		archive := filepath.Join(part, "archive")
		out, err := exec.CommandContext(ctx, mvn, "-B", "-q", "-C", "-f", file, "dependency:copy-dependencies", "-DoutputDirectory="+archive).CombinedOutput()
		if err != nil {
			return fmt.Errorf("download Apicurio Registry %s with Maven: %w\n%s", Version, err, out)
		}
		if err := unpack(filepath.Join(archive, "apicurio-registry-app-"+Version+"-all.tar.gz"), part); err != nil {
			return fmt.Errorf("unpack Apicurio Registry: %w", err)
		}
		return os.RemoveAll(archive)
	})
}

// unpack writes the files of an archive into dir.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	zipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	in, err := os.OpenRoot(dir) // no name leads out of it
	if err != nil {
		return err
	}
	defer in.Close()
	for files := tar.NewReader(zipped); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(filepath.Clean(h.Name), "/")
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := in.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := copyFile(in, name, files); err != nil {
			return err
		}
	}
}

func copyFile(in *os.Root, name string, from io.Reader) error {
	f, err := in.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
