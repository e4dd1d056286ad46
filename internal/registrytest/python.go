package registrytest

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed" // the client
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/toolcache"
)

//go:embed requirements.txt
var requirements []byte

//go:embed client.py
var client string

// Python returns the interpreter of an environment with Confluent's client, which it
// makes in .cache if necessary.
func Python(ctx context.Context, progress io.Writer) (interpreter string, err error) {
	sum := sha256.Sum256(requirements)
	dir, err := toolcache.Keep(ctx, filepath.Join("registry", fmt.Sprintf("python-%x", sum[:4])), func(part string) error {
		fmt.Fprintln(progress, "installing confluent-kafka for Python (once)")
		file := filepath.Join(part, "requirements.txt")
		if err := os.WriteFile(file, requirements, 0o644); err != nil {
			return err
		}
		for _, command := range [][]string{
			{"python3", "-m", "venv", part},
			{filepath.Join(part, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", file},
		} {
			if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("install confluent-kafka for Python (it needs python3-venv): %w\n%s", err, out)
			}
		}
		return nil
	})
	return filepath.Join(dir, "bin", "python"), err
}

// PythonRecord is a record as Confluent's Python client writes or reads it.
type PythonRecord struct {
	Key     string            `json:"key"`
	Headers map[string]string `json:"headers"`
	Value   json.RawMessage   `json:"value"`
	Schema  string            `json:"schema,omitempty"` // of the writer
}

// PythonWrite has the Python client register the schemas of records and write them
// in Avro.
func PythonWrite(t testing.TB, brokers []string, registry, topic string, records ...PythonRecord) {
	t.Helper()
	var in bytes.Buffer
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		in.Write(append(line, '\n'))
	}
	python(t, &in, "write", strings.Join(brokers, ","), registry, topic)
}

// PythonRead has the Python client read the first count records of a topic, with the
// reader's schema in the file schema, "" for each writer's own.
func PythonRead(t testing.TB, brokers []string, registry, topic string, count int, schema string) []PythonRecord {
	t.Helper()
	args := []string{"read", strings.Join(brokers, ","), registry, topic, fmt.Sprint(count)}
	if schema != "" {
		args = append(args, schema)
	}
	var records []PythonRecord
	for line := range strings.Lines(python(t, nil, args...)) {
		var r PythonRecord
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

func python(t testing.TB, stdin io.Reader, args ...string) string {
	t.Helper()
	interpreter, err := Python(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), interpreter, append([]string{"-c", client}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("the Python client: %v\n%s", err, stderr.String())
	}
	return stdout.String()
}
