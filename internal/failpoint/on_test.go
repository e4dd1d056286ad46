//go:build failpoint

package failpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The children of these tests are this test binary again; they end, not the test.
func TestMain(m *testing.M) {
	switch os.Getenv("FAILPOINT_CHILD") {
	case "":
		os.Exit(m.Run())
	case "hits":
		for range 5 {
			Hit("X1")
			os.Stdout.WriteString("x")
		}
	case "half":
		for range 3 {
			HitAfter("X2", func() { os.Stdout.WriteString("ha") })
			os.Stdout.WriteString("half ")
		}
	case "power":
		Power = func() { os.Stdout.WriteString("dropped") }
		if Fails("X3") {
			os.Stdout.WriteString("failed ")
		}
		Hit("X3")
		os.Stdout.WriteString("alive")
	}
}

// ending is what a child printed and whether SIGKILL ended it.
type ending struct {
	Stdout, Stderr string
	Killed         bool
}

func child(t *testing.T, what, plan string) ending {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "FAILPOINT_CHILD="+what, variable+"="+plan)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // its status is read below
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ending{stdout.String(), stderr.String(), status.Signaled() && status.Signal() == syscall.SIGKILL}
}

func TestAProcessEndsAtThePlannedHit(t *testing.T) {
	for _, c := range []struct {
		what, plan string
		want       ending
	}{
		{"hits", "", ending{"xxxxx", "", false}},
		{"hits", "X2:kill", ending{"xxxxx", "", false}},
		{"hits", "X1:kill", ending{"", "failpoint X1: kill at hit 1\n", true}},
		{"hits", "X1:kill@4", ending{"xxx", "failpoint X1: kill at hit 4\n", true}},
		{"hits", "X1:kill@6", ending{"xxxxx", "", false}},
		{"hits", "X1:error@1", ending{"xxxxx", "", false}},
		{"half", "X2:kill@2", ending{"half ha", "failpoint X2: kill at hit 2\n", true}},
		{"power", "X3:power", ending{"dropped", "failpoint X3: power at hit 1\n", true}},
		{"power", "X3:error,X3:kill", ending{"failed ", "failpoint X3: error at hit 1\nfailpoint X3: kill at hit 1\n", true}},
		{"power", "", ending{"alive", "", false}},
	} {
		if diff := cmp.Diff(c.want, child(t, c.what, c.plan)); diff != "" {
			t.Errorf("%s with the plan %q (-want +got):\n%s", c.what, c.plan, diff)
		}
	}
	if got := child(t, "hits", "X1:explode"); got.Stdout != "" || !strings.Contains(got.Stderr, "X1:explode") {
		t.Errorf("an unknown action: %+v, want an error that names it", got)
	}
}

// arm replaces the plans of this process.
func arm(t *testing.T, text string) {
	t.Helper()
	all, err := parse(text)
	if err != nil {
		t.Fatal(err)
	}
	before := plans
	plans = func() []*plan { return all }
	t.Cleanup(func() { plans = before })
}

func hits(point string) (n int64) {
	for _, p := range plans() {
		if p.point == point {
			n = p.hits.Load()
		}
	}
	return n
}

func TestOnlySuccessfulChangesCount(t *testing.T) {
	arm(t, "X5:kill@99,X6:kill@99")
	status := 0
	h := Answers("X5", "X6", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = w.Write([]byte("ok")) }))
	for _, c := range []struct {
		method string
		status int
		want   int64
	}{{"POST", 201, 1}, {"POST", 500, 1}, {"GET", 200, 1}, {"PATCH", 200, 2}} {
		status = c.status
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(c.method, "/", nil))
		if hits("X5") != c.want || hits("X6") != c.want {
			t.Errorf("after %s %d: %d and %d hits, want %d", c.method, c.status, hits("X5"), hits("X6"), c.want)
		}
	}
}

// Requests are recognized by their frames, in whatever pieces they are written.
func TestKafkaRequestsAreCountedWhenWhole(t *testing.T) {
	frame := func(kind uint16, size int) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(size+2))
		return append(binary.BigEndian.AppendUint16(b, kind), make([]byte, size)...)
	}
	stream := bytes.Join([][]byte{frame(3, 20), frame(0, 500), frame(8, 40), frame(0, 1), frame(18, 9)}, nil)
	for _, piece := range []int{1, 5, 6, 7, 100, len(stream)} {
		arm(t, "R2:kill@99,B4:kill@99")
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with Close
		c, err := Kafka(func(context.Context, string, string) (net.Conn, error) { return ours, nil })(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		for rest := stream; len(rest) > 0; rest = rest[min(piece, len(rest)):] {
			if _, err := c.Write(rest[:min(piece, len(rest))]); err != nil {
				t.Fatal(err)
			}
		}
		if hits("R2") != 2 || hits("B4") != 1 {
			t.Errorf("in pieces of %d: %d produces, %d commits, want 2 and 1", piece, hits("R2"), hits("B4"))
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
