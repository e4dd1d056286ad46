package kafkatest

import (
	"bufio"
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

// Version is the Apache Kafka that Fetch gets.
const Version = "4.3.1"

//go:embed pom.xml
var pom []byte

// Fetch returns the folder with Kafka's jars, <module root>/.cache/kafka/...,
// and downloads them with Maven if necessary, with reports to progress. Several
// processes may call it at once: one downloads, the others wait.
func Fetch(ctx context.Context, progress io.Writer) (libs string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cache := filepath.Join(root, ".cache", "kafka")
	sum := sha256.Sum256(pom)
	libs = filepath.Join(cache, fmt.Sprintf("%s-%x", Version, sum[:4]))
	if _, err := os.Stat(libs); err == nil {
		return libs, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache for Apache Kafka: %w", err)
	}
	locked, err := lock(ctx, filepath.Join(cache, "lock"))
	if err != nil {
		return "", fmt.Errorf("lock the cache for Apache Kafka: %w", err)
	}
	defer locked.Close()
	if _, err := os.Stat(libs); err == nil {
		return libs, nil // another process was faster
	}
	// The folder gets its name when it is complete, so that an interrupted
	// download is never used.
	part := libs + ".part"
	if err := os.RemoveAll(part); err != nil {
		return "", fmt.Errorf("clear the cache for Apache Kafka: %w", err)
	}
	if err := maven(ctx, cache, part, progress); err != nil {
		return "", err
	}
	if err := os.Rename(part, libs); err != nil {
		return "", fmt.Errorf("keep the jars of Apache Kafka: %w", err)
	}
	return libs, nil
}

// maven copies the jars that the pom names, and all they need, into target.
func maven(ctx context.Context, cache, target string, progress io.Writer) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return errors.New("no mvn on the PATH: Maven downloads Apache Kafka; install it (Debian: apt-get install maven) or leave KAFKA_REAL unset")
	}
	file := filepath.Join(cache, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return fmt.Errorf("write the pom: %w", err)
	}
	fmt.Fprintf(progress, "downloading Apache Kafka %s with Maven (about 90 jars, 55 MB, once)\n", Version)
	cmd := exec.CommandContext(ctx, mvn, "-B", "-C", "-f", file, "dependency:copy-dependencies", "-DoutputDirectory="+target)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start mvn: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start mvn: %w", err)
	}
	problems := follow(out, progress)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("download Apache Kafka %s with Maven: %w\n%s", Version, err, problems)
	}
	return nil
}

// follow reports the progress of Maven in a few lines and returns its errors.
func follow(out io.Reader, progress io.Writer) (problems string) {
	const every = 15
	jars := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "[ERROR]"):
			problems += line + "\n"
		case strings.Contains(line, "Downloaded from") && strings.Contains(line, ".jar"), strings.Contains(line, "Copying "):
			if jars++; jars%every == 0 {
				fmt.Fprintf(progress, "  %d jars\n", jars)
			}
		}
	}
	return problems
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
