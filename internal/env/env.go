// Package env turns environment variables into typed settings. The environment
// is a parameter, so that tests pass a map. Every mistake is collected, so that
// an operator sees all of them at once and not one per start.
package env

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Lookup returns the value of a variable, like os.LookupEnv.
type Lookup func(key string) (string, bool)

// Map returns a Lookup in m, for tests and for programs that run several services.
func Map(m map[string]string) Lookup {
	return func(key string) (string, bool) { v, ok := m[key]; return v, ok }
}

// Error lists every mistake, one line each, in the order they were found.
type Error struct{ Mistakes []string }

func (e *Error) Error() string { return strings.Join(e.Mistakes, "\n") }

// Reader reads settings and collects the mistakes in them. A variable that is set
// but empty counts as unset: Kubernetes manifests often leave one empty.
type Reader struct {
	lookup   Lookup
	mistakes []string
}

// NewReader reads from lookup.
func NewReader(lookup Lookup) *Reader { return &Reader{lookup: lookup} }

// Fail records a mistake in the variable key.
func (r *Reader) Fail(key, format string, args ...any) {
	r.mistakes = append(r.mistakes, key+": "+fmt.Sprintf(format, args...))
}

// Err is an *Error with every mistake, or nil.
func (r *Reader) Err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	return &Error{Mistakes: slices.Clone(r.mistakes)}
}

// String is the value of key, or def.
func (r *Reader) String(key, def string) string {
	if v, ok := r.lookup(key); ok && strings.TrimSpace(v) != "" {
		return strings.TrimSpace(v)
	}
	return def
}

// Bool accepts true, false, 1 and 0.
func (r *Reader) Bool(key string, def bool) bool {
	v := r.String(key, "")
	if v == "" {
		return def
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		r.Fail(key, "want true or false, have %q", v)
		return def
	}
	return b
}

// Int accepts a decimal between low and high.
func (r *Reader) Int(key string, def, low, high int) int {
	v := r.String(key, "")
	if v == "" {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		r.Fail(key, "want a whole number from %d to %d, have %q", low, high, v)
		return def
	}
	return n
}

// Duration accepts Go durations (250ms, 25s, 1h) between low and high.
func (r *Reader) Duration(key string, def, low, high time.Duration) time.Duration {
	v := r.String(key, "")
	if v == "" {
		return def
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < low || d > high {
		r.Fail(key, "want a duration such as 25s from %v to %v, have %q", low, high, v)
		return def
	}
	return d
}

// Bytes accepts a number of bytes, at least low, with KiB, MiB or GiB behind it or nothing.
func (r *Reader) Bytes(key string, def, low int64) int64 {
	v := r.String(key, "")
	if v == "" {
		return def
	}
	n, err := ParseBytes(v)
	if err != nil || n < low {
		least := fmt.Sprintf("%d MiB", low>>20)
		if low%(1<<20) != 0 {
			least = fmt.Sprintf("%d KiB", low>>10)
		}
		r.Fail(key, "want a size such as 256MiB, at least %s, have %q", least, v)
		return def
	}
	return n
}

// ParseBytes reads a number of bytes, with KiB, MiB or GiB behind it or nothing.
func ParseBytes(v string) (int64, error) {
	digits, shift := v, 0
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		if before, ok := strings.CutSuffix(v, unit); ok {
			digits, shift = strings.TrimSpace(before), 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, errors.New("is not a size such as 256MiB")
	}
	return n << shift, nil
}

// Enum accepts one of allowed.
func (r *Reader) Enum(key, def string, allowed ...string) string {
	v := r.String(key, def)
	if !slices.Contains(allowed, v) {
		r.Fail(key, "want one of %s, have %q", strings.Join(allowed, ", "), v)
		return def
	}
	return v
}

// URL accepts an absolute http or https address without credentials in it.
func (r *Reader) URL(key, def string) string {
	v := r.String(key, def)
	if err := CheckURL(v); err != nil {
		r.Fail(key, "%v", err)
	}
	return v
}

// CheckURL returns why v cannot be the address of a sink. The error never
// contains v, which may contain credentials.
func CheckURL(v string) error {
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
		return fmt.Errorf("want an absolute http or https address such as http://localhost:8002/")
	case u.User != nil:
		return fmt.Errorf("an address must not contain credentials")
	case u.Fragment != "":
		return fmt.Errorf("an address must not contain a fragment")
	}
	return nil
}

// Addr accepts host:port; host may be empty, port 0 stands for a free port.
func (r *Reader) Addr(key, def string) string {
	v := r.String(key, def)
	if err := checkAddr(v); err != nil {
		r.Fail(key, "%v", err)
		return def
	}
	return v
}

func checkAddr(v string) error {
	_, port, err := net.SplitHostPort(v)
	if err != nil {
		return fmt.Errorf("want host:port or :port, have %q", v)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("want a port from 0 to 65535, have %q", v)
	}
	return nil
}

// List splits at commas and drops empty items.
func (r *Reader) List(key, def string) []string {
	var out []string
	for item := range strings.SplitSeq(r.String(key, def), ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// HostPorts is a List whose items are all host:port.
func (r *Reader) HostPorts(key, def string) []string {
	out := r.List(key, def)
	if len(out) == 0 {
		r.Fail(key, "want at least one host:port")
	}
	for _, item := range out {
		host, _, err := net.SplitHostPort(item)
		if err != nil || host == "" || checkAddr(item) != nil {
			r.Fail(key, "want host:port, have %q", item)
		}
	}
	return out
}

// File is the path of a file that can be read now, or "".
func (r *Reader) File(key string) string {
	path := r.String(key, "")
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		r.Fail(key, "%v", err)
		return path
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.IsDir() {
		r.Fail(key, "%s is a directory, want a file", path)
	}
	return path
}
