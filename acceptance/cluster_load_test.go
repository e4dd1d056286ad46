//go:build cluster

package acceptance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestClusterUnderLoad rolls each Deployment and kills each container, and the
// broker's, with SIGKILL while clients write. Every change that was answered
// with 2xx must then be in the audit log exactly once, each task's in order.
// A client that got no answer asks again with the same Idempotency-Key, so that
// in the end every change was answered and the log must have no line more.
func TestClusterUnderLoad(t *testing.T) {
	deployed, err := readDeployed(t.Context())
	if err != nil {
		t.Fatalf("no taskwire in this cluster (deploy it with `skaffold run`): %v", err)
	}
	if err := errors.Join(deployed.empty(t.Context()), deployed.restore()); err != nil {
		t.Fatal(err)
	}
	base, err := freePorts()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{work: t.TempDir(), base: base}
	w.data = w.work
	ports := startForward(namespace, "deployment/taskapi", w.address(8000), 8000)
	t.Cleanup(ports.stop)
	w.system = logOnly{}

	l := startLoad(t, "http://"+w.address(8000), ports)
	for _, name := range services() {
		l.during(t, "roll "+name, func(ctx context.Context) error { return roll(ctx, name) })
		l.during(t, "kill "+name, func(ctx context.Context) error {
			return killContainer(ctx, namespace, "app.kubernetes.io/name="+name, "^/ko-app/"+name+"$")
		})
	}
	l.during(t, "kill kafka", func(ctx context.Context) error {
		return killContainer(ctx, kafkaNamespace, "app.kubernetes.io/name=kafka", "kafka[.]Kafka")
	})
	if command := os.Getenv("CLUSTER_UPGRADE"); command != "" {
		l.during(t, "upgrade", func(ctx context.Context) error { return upgrade(ctx, command) })
	}
	acked := l.stop()
	t.Logf("%d changes answered with 2xx, %d posts asked again, %d after 10 s", len(acked), l.again.Load(), l.unheard.Load())

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := poll(ctx, func() error { return w.auditLines(len(acked)) }); err != nil {
		t.Error(err)
	}
	if err := auditlog(ctx, w, nil, []string{"check"}); err != nil {
		t.Error(err)
	}
	text, err := w.auditText()
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		change := change{e.Attributes.Subject, fmt.Sprint(e.Attributes.TaskVersion)}
		if !acked[change] {
			t.Errorf("%v is in the audit log, but nobody was told", change)
		}
		delete(acked, change)
	}
	for change := range acked {
		t.Errorf("LOST: %v was answered with 2xx and is not in the audit log", change)
	}
}

// logOnly is a system of which a test reads the audit log alone.
type logOnly struct{ system }

func (logOnly) fetchAudit(path string) error {
	text, err := kubectl(context.Background(), "", "exec", "deployment/auditor", "-n", namespace, "--", "/ko-app/auditor", "cat")
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// upgrade deploys other images of all four services with a command of the caller's.
func upgrade(ctx context.Context, command string) error {
	if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	for _, name := range services() {
		if err := rolled(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func roll(ctx context.Context, name string) error {
	if _, err := kubectl(ctx, "", "rollout", "restart", "deployment/"+name, "-n", namespace); err != nil {
		return err
	}
	return rolled(ctx, name)
}

func rolled(ctx context.Context, name string) error {
	if _, err := kubectl(ctx, "", "rollout", "status", "deployment/"+name, "-n", namespace, "--timeout=120s"); err != nil {
		return err
	}
	// The rollout is over when the new pod is ready; the old one may still drain.
	return poll(ctx, func() error {
		_, err := restarts(ctx, namespace, "app.kubernetes.io/name="+name)
		return err
	})
}

// killContainer sends SIGKILL from the node, which CLUSTER_NODE_EXEC reaches
// (`docker exec NODE`, as on kind), and waits until the same pod is ready again.
func killContainer(ctx context.Context, ns, selector, process string) error {
	before, err := restarts(ctx, ns, selector)
	if err != nil {
		return err
	}
	node, err := kubectl(ctx, "", "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	if err != nil {
		return err
	}
	reach := []string{"docker", "exec", node}
	if text := os.Getenv("CLUSTER_NODE_EXEC"); text != "" {
		reach = strings.Fields(text)
	}
	kill := append(reach, "pkill", "-KILL", "-f", process)
	if out, err := exec.CommandContext(ctx, kill[0], kill[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(kill, " "), err, out)
	}
	if err := poll(ctx, func() error {
		now, err := restarts(ctx, ns, selector)
		if err == nil && now <= before {
			err = fmt.Errorf("%s: %d restarts, want more than %d", selector, now, before)
		}
		return err
	}); err != nil {
		return err
	}
	_, err = kubectl(ctx, "", "wait", "pod", "-n", ns, "-l", selector, "--for=condition=Ready", "--timeout=120s")
	return err
}

func restarts(ctx context.Context, ns, selector string) (int, error) {
	text, err := kubectl(ctx, "", "get", "pods", "-n", ns, "-l", selector, "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}")
	if err != nil {
		return 0, err
	}
	if strings.ContainsRune(text, ' ') {
		return 0, fmt.Errorf("%s has more than one pod", selector)
	}
	return strconv.Atoi(text)
}

// change is one that was answered with 2xx.
type change struct{ task, version string }

// load is clients that each write to tasks of their own.
type load struct {
	url     string
	ports   *forward
	cancel  context.CancelFunc
	clients sync.WaitGroup
	again   atomic.Int64 // posts that were not answered
	unheard atomic.Int64 // of these: 10 s without an answer
	acks    atomic.Int64
	mu      sync.Mutex
	acked   map[change]bool
}

func startLoad(t *testing.T, url string, ports *forward) *load {
	stop, cancel := context.WithCancel(t.Context())
	l := &load{url: url, ports: ports, cancel: cancel, acked: map[change]bool{}}
	for range 4 {
		l.clients.Go(func() {
			for stop.Err() == nil {
				if err := l.task(t.Context(), stop); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); l.clients.Wait() })
	return l
}

// task is the life of one task. When stop ends, the change in hand is the last
// but one: each change is asked for until it was answered, or ctx ends.
func (l *load) task(ctx, stop context.Context) error {
	id, err := l.write(ctx, "POST", "/tasks", `{"title":"Version 1"}`)
	for v := 2; v < 20 && stop.Err() == nil && err == nil; v++ {
		_, err = l.write(ctx, "PATCH", "/tasks/"+id, fmt.Sprintf(`{"title":"Version %d"}`, v))
	}
	if err != nil {
		return err
	}
	_, err = l.write(ctx, "POST", "/tasks/"+id+"/complete", "")
	return err
}

// write asks until it is answered with 2xx, and returns the task's id.
func (l *load) write(ctx context.Context, method, path, body string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	key := uuid.NewString()
	err = poll(ctx, func() error {
		c, err := l.once(ctx, method, path, body, key)
		if err != nil {
			l.again.Add(1)
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
				l.unheard.Add(1)
				l.ports.again()
			}
			return err
		}
		id = c.task
		l.acks.Add(1)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.acked[c] = true
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("%s %s was never answered: %w", method, path, err)
	}
	return id, nil
}

func (l *load) once(ctx context.Context, method, path, body, key string) (change, error) {
	req, err := http.NewRequestWithContext(ctx, method, l.url+path, strings.NewReader(body))
	if err != nil {
		return change{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", key)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return change{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return change{}, err
	}
	var task struct {
		ID      string
		Version json.Number
	}
	if resp.StatusCode/100 != 2 {
		return change{}, fmt.Errorf("%d: %s", resp.StatusCode, text)
	}
	err = json.Unmarshal(text, &task)
	return change{task.ID, task.Version.String()}, err
}

// during runs a fault under load, and waits until changes are answered again.
func (l *load) during(t *testing.T, what string, fault func(context.Context) error) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := l.more(ctx); err != nil {
		t.Fatalf("before %s: %v", what, err)
	}
	begin, acks := time.Now(), l.acks.Load()
	if err := fault(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	took, answered := time.Since(begin), l.acks.Load()-acks
	if err := l.more(ctx); err != nil {
		t.Fatalf("after %s: %v", what, err)
	}
	t.Logf("%-14s %5.1f s, %d changes answered meanwhile", what, took.Seconds(), answered)
}

// more waits for 20 answers from now on.
func (l *load) more(ctx context.Context) error {
	want := l.acks.Load() + 20
	return poll(ctx, func() error {
		if have := l.acks.Load(); have < want {
			return fmt.Errorf("%d changes answered, want %d", have, want)
		}
		return nil
	})
}

func (l *load) stop() map[change]bool {
	l.cancel()
	l.clients.Wait()
	return l.acked
}
