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
	"syscall"
)

// Version is the Apache Kafka that Fetch gets.
const Version = "4.3.1"

//go:embed pom.xml
var pom []byte

// Fetch returns the folder with Kafka's jars, <module root>/.cache/kafka/...,
// and fills it with Maven if need be, saying on progress how far it is. Several
// processes may call it at once: one fetches, the others wait.
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
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(libs); err == nil {
		return libs, nil // another process was faster
	}
	// The folder gets its name when it is complete, so that a fetch that was cut
	// short is never taken for a whole one.
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
		return errors.New("no mvn on the PATH: a real Apache Kafka is fetched with Maven, install it (Debian: apt-get install maven) or leave KAFKA_REAL unset")
	}
	file := filepath.Join(cache, "pom.xml")
	if err := os.WriteFile(file, pom, 0o644); err != nil {
		return fmt.Errorf("write the pom: %w", err)
	}
	fmt.Fprintf(progress, "fetching Apache Kafka %s with Maven (about 90 jars, 55 MB, once)\n", Version)
	cmd := exec.CommandContext(ctx, mvn, "-B", "-C", "-f", file, "dependency:copy-dependencies", "-DoutputDirectory="+target)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start mvn: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start mvn: %w", err)
	}
	complaints := follow(out, progress)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("fetch Apache Kafka %s with Maven: %w\n%s", Version, err, complaints)
	}
	return nil
}

// follow turns Maven's many lines into few and returns its complaints.
func follow(out io.Reader, progress io.Writer) (complaints string) {
	const every = 15
	jars := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "[ERROR]"):
			complaints += line + "\n"
		case strings.Contains(line, "Downloaded from") && strings.Contains(line, ".jar"), strings.Contains(line, "Copying "):
			if jars++; jars%every == 0 {
				fmt.Fprintf(progress, "  %d jars\n", jars)
			}
		}
	}
	return complaints
}

// moduleRoot finds go.mod above the working folder, which for a test is its package.
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

// lock waits for an exclusive lock that ends with the process.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the cache for Apache Kafka: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the cache for Apache Kafka: %w", err), f.Close())
	}
	return f.Close, nil
}
