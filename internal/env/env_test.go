package env_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/env"
)

func TestDefaultsWhenUnsetOrBlank(t *testing.T) {
	r := env.NewReader(env.Map(map[string]string{"BLANK": "  "}))
	if got := r.String("BLANK", "def"); got != "def" {
		t.Errorf("String of a blank value = %q, want the default", got)
	}
	if got := r.Duration("GRACE", 25*time.Second, 0, time.Minute); got != 25*time.Second {
		t.Errorf("Duration = %v, want the default", got)
	}
	if err := r.Err(); err != nil {
		t.Errorf("Err = %v, want nil", err)
	}
}

func TestBytes(t *testing.T) {
	for v, want := range map[string]int64{"": 7, "1000": 1000, "64KiB": 64 << 10, "256MiB": 256 << 20, "2 GiB": 2 << 30} {
		r := env.NewReader(env.Map(map[string]string{"M": v}))
		if got := r.Bytes("M", 7, 0); got != want || r.Err() != nil {
			t.Errorf("Bytes of %q = %d, %v; want %d", v, got, r.Err(), want)
		}
	}
}

func TestEveryMistakeIsNamedAtOnce(t *testing.T) {
	dir := t.TempDir()
	r := env.NewReader(env.Map(map[string]string{
		"B": "maybe", "I": "99", "D": "5 parsecs", "E": "loud", "U": "ftp://x", "P": "http://u:secret@h/",
		"A": "nowhere", "M": "12 parsecs", "M2": "1MiB", "M3": "9999999999GiB", "A2": ":70000", "H": "a:1,b", "F": filepath.Join(dir, "none"), "DIR": dir,
	}))
	r.Bool("B", false)
	r.Int("I", 1, 0, 10)
	r.Duration("D", time.Second, 0, time.Hour)
	r.Bytes("M", 0, 0)
	r.Bytes("M2", 0, 16<<20)
	r.Bytes("M3", 0, 16<<20)
	r.Enum("E", "info", "info", "warn")
	r.URL("U", "http://ok/")
	r.URL("P", "http://ok/")
	r.Addr("A", ":1")
	r.Addr("A2", ":1")
	r.HostPorts("H", "x:1")
	r.File("F")
	r.File("DIR")
	var got *env.Error
	if !errors.As(r.Err(), &got) {
		t.Fatalf("Err = %v, want *env.Error", r.Err())
	}
	want := []string{
		`B: want true or false, have "maybe"`,
		`I: want a whole number from 0 to 10, have "99"`,
		`D: want a duration such as 25s from 0s to 1h0m0s, have "5 parsecs"`,
		`M: want a size such as 256MiB, at least 0 MiB, have "12 parsecs"`,
		`M2: want a size such as 256MiB, at least 16 MiB, have "1MiB"`,
		`M3: want a size such as 256MiB, at least 16 MiB, have "9999999999GiB"`,
		`E: want one of info, warn, have "loud"`,
		`U: want an absolute http or https address such as http://localhost:8002/`,
		`P: an address must not contain credentials`,
		`A: want host:port or :port, have "nowhere"`,
		`A2: want a port from 0 to 65535, have ":70000"`,
		`H: want host:port, have "b"`,
		`F: open ` + filepath.Join(dir, "none") + `: no such file or directory`,
		`DIR: ` + dir + ` is a directory, want a file`,
	}
	if diff := cmp.Diff(want, got.Mistakes); diff != "" {
		t.Errorf("mistakes (-want +got):\n%s", diff)
	}
}

func TestAReadableFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := env.NewReader(env.Map(map[string]string{"F": path}))
	if got := r.File("F"); got != path || r.Err() != nil {
		t.Errorf("File = %q, %v; want %q, nil", got, r.Err(), path)
	}
}
