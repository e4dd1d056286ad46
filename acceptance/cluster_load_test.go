//go:build cluster

package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/freeport"
)

// TestClusterUnderLoad rolls each Deployment, deletes a pod of each, and kills each
// container, the broker's and the database's, with SIGKILL while clients write. Every
// change that was answered with 2xx must then be in the audit log exactly once, each
// task's in order. A client without an answer repeats the call with the same
// Idempotency-Key, so that in the end every change was answered and the log has no
// further line. With two pods of everything (overlay kind-scale) rollouts and
// deletions leave no call without an answer.
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
	visitor := startVisitor(t)
	chosen := regexp.MustCompile(os.Getenv("CLUSTER_FAULTS"))
	harsh := func(what string, fault func(context.Context) error) {
		if chosen.MatchString(what) {
			clients.during(t, what, fault)
		}
	}
	gentle := func(what string, fault func(context.Context) error) {
		if !chosen.MatchString(what) {
			return
		}
		visitor.look()
		clients.during(t, what, fault)
		calls, without := visitor.look()
		t.Logf("%-16s %d of %d calls to the Service without an answer", what, len(without), calls)
		if (len(without) > 0 || calls == 0) && deployed.replicas["taskapi"] > 1 {
			t.Errorf("%s: of %d calls to the Service, these had no answer: %q (status and curl's exit code); want some calls and an answer to each with two pods", what, calls, without)
		}
	}
	for _, name := range services() {
		gentle("roll "+name, func(ctx context.Context) error { return roll(ctx, name, deployed.replicas[name]) })
		gentle("delete "+name, func(ctx context.Context) error { return deletePod(ctx, name, deployed.replicas[name]) })
		harsh("kill "+name, func(ctx context.Context) error {
			return killContainer(ctx, namespace, "app.kubernetes.io/name="+name, "^/ko-app/"+name+"$")
		})
	}
	gentle("add partitions", func(ctx context.Context) error { return addPartitions(ctx, deployed.replicas["taskapi"]) })
	harsh("kill kafka", func(ctx context.Context) error {
		return killContainer(ctx, kafkaNamespace, "app.kubernetes.io/name=kafka", "kafka[.]Kafka")
	})
	if deployed.postgres {
		harsh("kill postgres", func(ctx context.Context) error {
			return killContainer(ctx, "postgres", "app.kubernetes.io/name=postgres", "^postgres( -D .*)?$")
		})
	}
	if command := os.Getenv("CLUSTER_UPGRADE"); command != "" {
		gentle("upgrade", func(ctx context.Context) error { return upgrade(ctx, command, deployed.replicas) })
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
func upgrade(ctx context.Context, command string, replicas map[string]int) error {
	if out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	for _, name := range services() {
		if err := rolled(ctx, name, replicas[name]); err != nil {
			return err
		}
	}
	return nil
}

func roll(ctx context.Context, name string, replicas int) error {
	if _, err := kubectl(ctx, "", "rollout", "restart", "deployment/"+name, "-n", namespace); err != nil {
		return err
	}
	return rolled(ctx, name, replicas)
}

func rolled(ctx context.Context, name string, replicas int) error {
	if _, err := kubectl(ctx, "", "rollout", "status", "deployment/"+name, "-n", namespace, "--timeout=120s"); err != nil {
		return err
	}
	// A rollout ends when the new pods are ready; the old ones may still be draining.
	return poll(ctx, func() error {
		pods, err := podsOf(ctx, namespace, "app.kubernetes.io/name="+name)
		if err == nil && len(pods) != replicas {
			err = fmt.Errorf("%s has %d pods, want %d", name, len(pods), replicas)
		}
		return err
	})
}

// deletePod deletes one pod of a Deployment, as a drained node does, and waits for its
// replacement, which must not have been restarted: a writer waits for its lock.
func deletePod(ctx context.Context, name string, replicas int) error {
	selector := "app.kubernetes.io/name=" + name
	before, err := podsOf(ctx, namespace, selector)
	if err != nil {
		return err
	}
	for gone := range before {
		if _, err := kubectl(ctx, "", "delete", "pod", gone, "-n", namespace, "--wait=true", "--timeout=60s"); err != nil {
			return err
		}
		break
	}
	if err := rolled(ctx, name, replicas); err != nil {
		return err
	}
	after, err := podsOf(ctx, namespace, selector)
	if err != nil {
		return err
	}
	for pod, restarts := range after {
		if _, old := before[pod]; !old && restarts > 0 {
			return fmt.Errorf("the replacement %s was restarted %d times", pod, restarts)
		}
	}
	return nil
}

// addPartitions follows docs/runbooks/adding-partitions.md.
func addPartitions(ctx context.Context, replicas int) error {
	tool := func(name string, args ...string) (string, error) {
		return kubectl(ctx, "", append([]string{"exec", kafkaPod, "-n", kafkaNamespace, "--", "bin/" + name, "--bootstrap-server", "localhost:9092"}, args...)...)
	}
	hold := func(args ...string) error {
		_, err := tool("kafka-configs.sh", append([]string{"--alter", "--entity-type", "topics", "--entity-name", "task-events"}, args...)...)
		return err
	}
	topic, err := tool("kafka-topics.sh", "--describe", "--topic", "task-events")
	if err != nil {
		return err
	}
	partitions := strings.Count(topic, "Leader:")
	if err := hold("--add-config", "min.insync.replicas=9"); err != nil {
		return err
	}
	for _, group := range []string{"notification-service", "audit-service"} {
		if err := poll(ctx, func() error {
			text, err := tool("kafka-consumer-groups.sh", "--describe", "--group", group)
			if err != nil {
				return err
			}
			return allRead(text)
		}); err != nil {
			return err
		}
	}
	if _, err := tool("kafka-topics.sh", "--alter", "--topic", "task-events", "--partitions", strconv.Itoa(partitions+3)); err != nil {
		return err
	}
	return errors.Join(roll(ctx, "taskapi", replicas), hold("--delete-config", "min.insync.replicas"))
}

// allRead reads the table of kafka-consumer-groups.sh: GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ...
func allRead(table string) error {
	partitions := 0
	for line := range strings.Lines(table) {
		words := strings.Fields(line)
		if len(words) < 6 || words[1] != "task-events" {
			continue
		}
		partitions++
		if words[5] != "0" && words[4] != "0" { // of a partition without records LAG is - or 0
			return fmt.Errorf("lag: %s", line)
		}
	}
	if partitions == 0 {
		return fmt.Errorf("no partitions in %q", table)
	}
	return nil
}

// killContainer sends SIGKILL from the node, with CLUSTER_NODE_EXEC or `docker
// exec NODE` as on kind, and waits until the same pod is ready again.
func killContainer(ctx context.Context, ns, selector, process string) error {
	before, err := restarts(ctx, ns, selector)
	if err != nil {
		return err
	}
	kill, err := onNode(ctx, "pkill", "-KILL", "-f", process)
	if err != nil {
		return err
	}
	if out, err := kill.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(kill.Args, " "), err, out)
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

// onNode returns a command that runs on the node.
func onNode(ctx context.Context, args ...string) (*exec.Cmd, error) {
	node, err := kubectl(ctx, "", "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	if err != nil {
		return nil, err
	}
	reach := []string{"docker", "exec", "-i", node}
	if text := os.Getenv("CLUSTER_NODE_EXEC"); text != "" {
		reach = strings.Fields(text)
	}
	args = append(reach, args...)
	return exec.CommandContext(ctx, args[0], args[1:]...), nil
}

// podsOf returns how often the container of each pod was restarted.
func podsOf(ctx context.Context, ns, selector string) (map[string]int, error) {
	text, err := kubectl(ctx, "", "get", "pods", "-n", ns, "-l", selector, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
	if err != nil {
		return nil, err
	}
	pods := map[string]int{}
	for line := range strings.Lines(text) {
		name, count, _ := strings.Cut(strings.TrimSpace(line), " ")
		if pods[name], err = strconv.Atoi(count); err != nil {
			return nil, fmt.Errorf("pod %s has not started: %w", name, err)
		}
	}
	if len(pods) == 0 {
		return nil, fmt.Errorf("%s has no pod", selector)
	}
	return pods, nil
}

func restarts(ctx context.Context, ns, selector string) (sum int, err error) {
	pods, err := podsOf(ctx, ns, selector)
	for _, n := range pods {
		sum += n
	}
	return sum, err
}

// during injects a fault under load and waits until changes are answered again.
func (c *clients) during(t *testing.T, what string, fault func(context.Context) error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // Kafka's tools start slowly on a busy machine
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
	t.Logf("%-16s %5.1f s, %d changes answered meanwhile", what, took.Seconds(), now-before)
}
