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
	"time"

	"github.com/taskwire/taskwire/internal/filelock"
	"github.com/taskwire/taskwire/internal/retry"
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
	return keep(ctx, filepath.Join("registry", fmt.Sprintf("%s-%x", Version, sum[:4])), func(part string) error {
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

// keep returns the folder .cache/name, which make fills if it is not there. It gets
// its name when it is complete, so that an interrupted download is never used.
func keep(ctx context.Context, name string, make func(part string) error) (dir string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(root, ".cache", name)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	locked, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", fmt.Errorf("lock the cache: %w", err)
	}
	defer locked.Close()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil // another process was faster
	}
	part := dir + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o755)); err != nil {
		return "", fmt.Errorf("clear the cache: %w", err)
	}
	if err := make(part); err != nil {
		return "", err
	}
	return dir, os.Rename(part, dir)
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

// moduleRoot finds go.mod above the working folder, which is a test's package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the module root: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find the module root: no go.mod above the working folder")
		}
		dir = filepath.Dir(dir)
	}
}

// lock waits until this process has the lock. Closing the file releases it.
func lock(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := filelock.Take(path)
		if !errors.Is(err, filelock.ErrHeld) {
			return f, err
		}
		if err := retry.Pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}
