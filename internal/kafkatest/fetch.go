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

	"github.com/taskwire/taskwire/internal/toolcache"
)

// Version is the Apache Kafka that Fetch gets.
const Version = "4.3.1"

//go:embed pom.xml
var pom []byte

// Fetch returns the folder with Kafka's jars, <module root>/.cache/kafka/...,
// and downloads them with Maven if necessary, with reports to progress. Several
// processes may call it at once: one downloads, the others wait.
func Fetch(ctx context.Context, progress io.Writer) (libs string, err error) {
	sum := sha256.Sum256(pom)
	return toolcache.Keep(ctx, filepath.Join("kafka", fmt.Sprintf("%s-%x", Version, sum[:4])), func(part string) error {
		return maven(ctx, part, progress)
	})
}

// maven copies the jars that the pom names, and all they need, into target.
func maven(ctx context.Context, target string, progress io.Writer) error {
	mvn, err := exec.LookPath("mvn")
	if err != nil {
		return errors.New("no mvn on the PATH: Maven downloads Apache Kafka; install it (Debian: apt-get install maven) or leave KAFKA_REAL unset")
	}
	file := filepath.Join(target, "pom.xml")
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
