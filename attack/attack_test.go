//go:build attack && linux

// Package attack_test holds the real programs, at their default limits, against
// clients that want to use up their memory:
//
//	make attacks
//
// Each attack has a process of its own. While it goes on, others must be
// answered, and the process must stay below the limit of its container. With
// ATTACK_BIN=DIR the programs are taken from there, to compare with older ones.
package attack_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
)

// limit is the memory of each container in manifests/base. A container's process
// reads it from its control group; here GOMEMLIMIT says the same, nine tenths.
const limit = 256 << 20

var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		if bin = os.Getenv("ATTACK_BIN"); bin != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "attack-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		bin = dir
		build := exec.Command("go", "build", "-o", dir+"/", "./taskapi", "./notifier", "./auditor")
		build.Dir = ".."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// victim is a running service.
type victim struct {
	*testing.T
	*child.Process
	addr, ops string
	log       string
	probe     func() error // what others ask for meanwhile
}

func start(t *testing.T, name, shell string, env ...string) *victim {
	t.Helper()
	dir := t.TempDir()
	v := &victim{T: t, addr: freeport.Addr(), ops: freeport.Addr(), log: filepath.Join(dir, "log")}
	cmd := exec.Command(filepath.Join(bin, name))
	if shell != "" {
		cmd = exec.Command("bash", "-c", shell+"; exec "+filepath.Join(bin, name))
	}
	cmd.Env = append(env, "LISTEN_ADDR="+v.addr, "OPS_ADDR="+v.ops, "LOG_FORMAT=json", "GOMEMLIMIT="+strconv.Itoa(limit/10*9))
	cmd.Dir = dir
	var err error
	if v.Process, err = child.Start(cmd, v.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.End(syscall.SIGTERM, time.Minute); err != nil && !t.Failed() {
			t.Error(err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(v.log)
			t.Logf("%d bytes of log, the end:\n%s", len(text), text[max(0, len(text)-3000):])
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := v.AwaitReady(ctx, "http://"+v.ops+"/readyz"); err != nil {
		t.Fatal(err)
	}
	return v
}

// under runs the attack, probes the service for the time given, and judges.
func (v *victim) under(during time.Duration, attack func(ctx context.Context)) {
	v.Helper()
	ctx, cancel := context.WithTimeout(v.Context(), during)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { attack(ctx) })
	var worst time.Duration
	asked, failed := 0, 0
	for ctx.Err() == nil {
		began := time.Now()
		err := v.probe()
		if err == nil {
			err = get("http://" + v.ops + "/healthz")
		}
		worst = max(worst, time.Since(began))
		asked++
		if err != nil {
			failed++
			if failed <= 3 {
				v.Logf("a probe failed: %v", err)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	wg.Wait()
	peak := v.peak()
	v.Logf("%-28s peak %4d MiB, %d probes, %d failed, slowest %v", v.Name(), peak>>20, asked, failed, worst.Round(time.Millisecond))
	if peak >= limit {
		v.Errorf("%d MiB resident, the container has %d", peak>>20, limit>>20)
	}
	// One probe may meet the moment in which its connection was the oldest.
	if failed > 1 || asked < 2 {
		v.Errorf("%d of %d probes failed", failed, asked)
	}
}

// peak is the highest resident size of the process so far.
func (v *victim) peak() int64 {
	v.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.Pid()))
	if err != nil {
		v.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				v.Fatal(err)
			}
			return kib << 10
		}
	}
	v.Fatal("the process is gone")
	return 0
}

// client has no connection of an earlier request: each probe is a newcomer.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 15 * time.Second}

func get(url string) error { return answered(client.Get(url)) }

func answered(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", resp.Request.Method, resp.Request.URL, resp.Status)
	}
	return nil
}

// crowd keeps n clients busy until ctx ends; who is thrown out comes again.
func crowd(ctx context.Context, n int, one func(ctx context.Context)) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				one(ctx)
				time.Sleep(rand.N(50 * time.Millisecond))
			}
		})
	}
	wg.Wait()
}

// send opens a connection, sends request and then neither sends nor reads until
// the service closes it.
func (v *victim) send(request []byte) func(context.Context) {
	return func(ctx context.Context) {
		d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
			// A small window, so that an answer stays with the service.
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
		}}
		c, err := d.DialContext(ctx, "tcp", v.addr)
		if err != nil {
			return
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		if _, err := c.Write(request); err != nil {
			return
		}
		// Ends when the service has closed; what it sent stays unread.
		for ctx.Err() == nil && !closed(c.(*net.TCPConn)) {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// closed asks the kernel for the state of the connection.
func closed(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	state := byte(0)
	err = raw.Control(func(fd uintptr) {
		b, err := syscall.GetsockoptIPMreqn(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err == nil {
			state = b.Multiaddr[0]
		}
	})
	const established = 1
	return err != nil || state != established
}

func event(id string, size int) []byte {
	return fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"attack","type":"task.updated","subject":"one","datacontenttype":"application/json","data":{"task_id":"one","title":"%s"}}`,
		id, strings.Repeat("x", size))
}

func post(addr, contentType string, body []byte) error {
	return answered(client.Post("http://"+addr, contentType, bytes.NewReader(body)))
}

// request is the beginning of a POST that announces length bytes, or none when
// that is negative, with what is sent of the body.
func request(path string, length int, body []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/cloudevents+json\r\n", path)
	if length < 0 {
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n", 1<<30)
	} else {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n", length)
	}
	b.Write(body)
	return b.Bytes()
}

// header is a request whose header never ends.
func header() []byte {
	var b bytes.Buffer
	b.WriteString("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
	for i := 0; b.Len() < 30<<10; i++ {
		fmt.Fprintf(&b, "x-%d: %s\r\n", i, strings.Repeat("y", 30))
	}
	return b.Bytes()
}

// log writes n entries of one task, each with size bytes of data.
func auditLog(t *testing.T, n, size int) string {
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	pad := strings.Repeat("x", size)
	for i := 1; i <= n; i++ {
		fmt.Fprintf(w, `{"seq":%d,"event_id":"e%d","event_type":"task.updated","occurred_at":null,"data":{"task_id":"one","title":"%s"},"metadata":{"correlation_id":null,"source":"task-api"},`+
			`"attributes":{"specversion":"1.0","subject":"one","taskversion":%d},"audited_at":"2025-01-15T10:30:01.000000Z"}`+"\n", i, i, pad, i)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func auditor(t *testing.T, path, shell string) *victim {
	v := start(t, "auditor", shell, "AUDIT_LOG_PATH="+path)
	n := 0
	v.probe = func() error {
		n++
		if err := post(v.addr, "application/cloudevents+json", event(fmt.Sprint("probe-", n), 10)); err != nil {
			return err
		}
		return get("http://" + v.addr + "/entries?limit=1")
	}
	return v
}

const during = 15 * time.Second

func TestAuditor(t *testing.T) {
	large, small := 900_000, 10
	for _, c := range []struct {
		name    string
		entries int
		size    int
		attack  func(v *victim) func(context.Context)
	}{
		{"history of 200 large entries", 200, large, func(v *victim) func(context.Context) {
			return func(ctx context.Context) {
				crowd(ctx, 4, func(ctx context.Context) {
					req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+v.addr+"/tasks/one/history", nil)
					_ = answered(http.DefaultClient.Do(req))
				})
			}
		}},
		{"60 unread histories", 200, large, unread(60, "/tasks/one/history")},
		{"60 unread pages", 200, large, unread(60, "/entries?limit=1000")},
		{"500 unread pages", 200, large, unread(500, "/entries?limit=1000")},
		{"500 unread entries", 10, large, unread(500, "/entries/1")},
		{"3000 unfinished headers", 10, small, func(v *victim) func(context.Context) {
			return func(ctx context.Context) { crowd(ctx, 3000, v.send(header())) }
		}},
		{"3000 unfinished bodies", 10, small, unfinished(3000, 1<<20, 200_000)},
		{"3000 bodies without length", 10, small, unfinished(3000, -1, 200_000)},
		{"3000 small bodies", 10, small, unfinished(3000, 16_000, 15_900)},
		{"64 large events", 10, small, func(v *victim) func(context.Context) {
			return func(ctx context.Context) {
				crowd(ctx, 64, func(context.Context) {
					_ = post(v.addr, "application/cloudevents+json", event(fmt.Sprint(rand.Uint64()), large))
				})
			}
		}},
		{"64 batches of 16,000 events", 10, small, func(v *victim) func(context.Context) {
			return func(ctx context.Context) {
				crowd(ctx, 64, func(context.Context) {
					_ = post(v.addr, "application/cloudevents-batch+json", batch(16_000))
				})
			}
		}},
		{"500 batches of 240 events", 10, small, func(v *victim) func(context.Context) {
			return func(ctx context.Context) {
				crowd(ctx, 500, func(context.Context) {
					_ = post(v.addr, "application/cloudevents-batch+json", batch(240))
				})
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := auditor(t, auditLog(t, c.entries, c.size), "")
			v.under(during, c.attack(v))
		})
	}
}

func unread(n int, path string) func(v *victim) func(context.Context) {
	return func(v *victim) func(context.Context) {
		return func(ctx context.Context) {
			crowd(ctx, n, v.send([]byte("GET "+path+" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")))
		}
	}
}

func unfinished(n, length, sent int) func(v *victim) func(context.Context) {
	return func(v *victim) func(context.Context) {
		path := "/"
		if strings.HasPrefix(v.Name(), "TestTaskAPI") {
			path = "/tasks"
		}
		return func(ctx context.Context) { crowd(ctx, n, v.send(request(path, length, event("x", sent)[:sent]))) }
	}
}

// batch has events as small as they can be.
func batch(n int) []byte {
	var b bytes.Buffer
	from := rand.Uint32()
	for i := range n {
		fmt.Fprintf(&b, `,{"specversion":"1.0","id":"%x","source":"s","type":"t"}`, uint64(from)<<20+uint64(i))
	}
	b.WriteByte(']')
	b.Bytes()[0] = '['
	return b.Bytes()
}

func taskapi(t *testing.T) *victim {
	v := start(t, "taskapi", "", "DATABASE_URL=sqlite:"+filepath.Join(t.TempDir(), "tasks.db"), "KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1", "OUTBOX_LIMIT=1000000")
	v.probe = func() error {
		if err := post(v.addr+"/tasks", "application/json", []byte(`{"title":"probe"}`)); err != nil {
			return err
		}
		return get("http://" + v.addr + "/tasks?limit=1")
	}
	return v
}

func TestTaskAPI(t *testing.T) {
	for _, c := range []struct {
		name   string
		tasks  int
		attack func(v *victim) func(context.Context)
	}{
		{"60 unread lists", 1500, unread(60, "/tasks?limit=1000")},
		{"800 unread lists", 1500, unread(800, "/tasks?limit=1000")},
		{"3000 unfinished headers", 0, func(v *victim) func(context.Context) {
			return func(ctx context.Context) { crowd(ctx, 3000, v.send(header())) }
		}},
		{"3000 unfinished bodies", 0, unfinished(3000, 64<<10, 60_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := taskapi(t)
			title := []byte(`{"title":"` + strings.Repeat("😀", 500) + `"}`)
			for range c.tasks {
				if err := answered(http.Post("http://"+v.addr+"/tasks", "application/json", bytes.NewReader(title))); err != nil {
					t.Fatal(err)
				}
			}
			v.under(during, c.attack(v))
		})
	}
}

func TestNotifier(t *testing.T) {
	for name, attack := range map[string]func(v *victim) func(context.Context){
		"3000 unfinished bodies": unfinished(3000, 1<<20, 200_000),
		"64 batches of 16,000 events": func(v *victim) func(context.Context) {
			return func(ctx context.Context) {
				crowd(ctx, 64, func(context.Context) {
					_ = post(v.addr, "application/cloudevents-batch+json", batch(16_000))
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := start(t, "notifier", "")
			v.probe = func() error { return post(v.addr, "application/cloudevents+json", event("p", 10)) }
			v.under(during, attack(v))
		})
	}
}

// Out of file descriptors: /healthz answers, and few lines say why.
func TestOutOfFileDescriptors(t *testing.T) {
	v := auditor(t, auditLog(t, 10, 10), "ulimit -n 40")
	v.under(during, func(ctx context.Context) {
		crowd(ctx, 100, v.send([]byte("GET /healthz HTTP/1.1\r\nHost: localhost\r\n")))
	})
	text, err := os.ReadFile(v.log)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Count(text, []byte("\n")) - bytes.Count(text, []byte("AUDIT: "))
	t.Logf("%d lines besides the entries'", lines)
	if lines > 12 || !bytes.Contains(text, []byte(`"limit":40`)) {
		t.Errorf("%d lines, want a few that name the limit", lines)
	}
}
