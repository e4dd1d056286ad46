//go:build cluster

package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/freeport"
)

// TestClusterUnderLoad rolls each Deployment and kills each container, and the
// broker's, with SIGKILL while clients write. Every change that was answered
// with 2xx must then be in the audit log exactly once, each task's in order.
// A client without an answer repeats the call with the same Idempotency-Key, so
// that in the end every change was answered and the log has no further line.
func TestClusterUnderLoad(t *testing.T) {
	deployed, err := readDeployed(t.Context())
	if err != nil {
		t.Fatalf("no taskwire in this cluster (deploy it with `skaffold run`): %v", err)
	}
	if err := errors.Join(deployed.empty(t.Context()), deployed.restore()); err != nil {
		t.Fatal(err)
	}
	w := &world{work: t.TempDir(), base: freeport.Base()}
	w.data = w.work
	ports := startForward(namespace, "deployment/taskapi", w.address(8000), 8000)
	t.Cleanup(ports.stop)
	w.system = logOnly{}

	ctx, cancel := context.WithCancel(t.Context())
	clients := startClients(ctx, w, ports.again)
	defer func() { cancel(); clients.stop() }() // after a failure nothing answers them
	for _, name := range services() {
		clients.during(t, "roll "+name, func(ctx context.Context) error { return roll(ctx, name) })
		clients.during(t, "kill "+name, func(ctx context.Context) error {
			return killContainer(ctx, namespace, "app.kubernetes.io/name="+name, "^/ko-app/"+name+"$")
		})
	}
	clients.during(t, "kill kafka", func(ctx context.Context) error {
		return killContainer(ctx, kafkaNamespace, "app.kubernetes.io/name=kafka", "kafka[.]Kafka")
	})
	if command := os.Getenv("CLUSTER_UPGRADE"); command != "" {
		clients.during(t, "upgrade", func(ctx context.Context) error { return upgrade(ctx, command) })
	}
	clients.stop()
	t.Logf("%d changes answered with 2xx, %d calls repeated, %d of them after 10 s", clients.count, clients.again, clients.unheard)

	ctx, cancel = context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := poll(ctx, func() error { return w.auditLines(clients.count) }); err != nil {
		t.Error(err)
	}
	w.checkAudited(ctx, t, clients.acknowledged)
}

// logOnly is a system of which a test reads only the audit log.
type logOnly struct{ system }

func (logOnly) fetchAudit(path string) error {
	text, err := kubectl(context.Background(), "", "exec", "deployment/auditor", "-n", namespace, "--", "/ko-app/auditor", "cat")
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// upgrade runs a command that deploys other images of all four services.
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
	// A rollout ends when the new pod is ready; the old one may still be draining.
	return poll(ctx, func() error {
		_, err := restarts(ctx, namespace, "app.kubernetes.io/name="+name)
		return err
	})
}

// killContainer sends SIGKILL from the node, with CLUSTER_NODE_EXEC or `docker
// exec NODE` as on kind, and waits until the same pod is ready again.
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

// during injects a fault under load and waits until changes are answered again.
func (c *clients) during(t *testing.T, what string, fault func(context.Context) error) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	if err := c.progress(ctx, 20); err != nil {
		t.Fatalf("before %s: %v", what, err)
	}
	begin := time.Now()
	before, _ := c.look()
	if err := fault(ctx); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	took := time.Since(begin)
	now, _ := c.look()
	if err := c.progress(ctx, 20); err != nil {
		t.Fatalf("after %s: %v", what, err)
	}
	t.Logf("%-14s %5.1f s, %d changes answered meanwhile", what, took.Seconds(), now-before)
}
