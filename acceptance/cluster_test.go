//go:build cluster

package acceptance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/child"
)

// TestCluster runs the scripts against the Deployments of the current kubectl
// context, one script after the other, through port-forwards: `make
// acceptance-cluster`, after `skaffold run`. Nothing else may use the system:
// each script begins with empty volumes and topics, and the last one leaves it
// running and empty.
func TestCluster(t *testing.T) {
	deployed, err := readDeployed(t.Context())
	if err != nil {
		t.Fatalf("no taskwire in this cluster (deploy it with `skaffold run`): %v", err)
	}
	if deployed.postgres {
		t.Fatal("the scripts stop and start single pods with their files: deploy the overlay kind, or run TestClusterUnderLoad alone (make acceptance-cluster RUN=TestClusterUnderLoad)")
	}
	t.Cleanup(func() {
		if err := deployed.restore(); err != nil {
			t.Errorf("leave the system running: %v", err)
		}
	})
	scripts(t, mode{kafka: true, cluster: true, turn: new(sync.Mutex), boot: func(w *world) (system, error) {
		return newCluster(w, deployed)
	}})
}

const namespace, kafkaNamespace, kafkaPod = "taskwire", "kafka", "task-events-kafka-0"

// kubectl runs one command against the cluster.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

type envVar struct {
	Name      string          `json:"name"`
	Value     string          `json:"value,omitempty"`
	ValueFrom json.RawMessage `json:"valueFrom,omitempty"`
}

// deployed is what the manifests set, before scripts change it.
type deployed struct {
	env      map[string][]envVar // by Deployment
	replicas map[string]int      // by Deployment
	claims   []string            // the volumes' manifests
	postgres bool                // there are none: tasks and entries are in PostgreSQL
}

func readDeployed(ctx context.Context) (*deployed, error) {
	d := &deployed{env: map[string][]envVar{}, replicas: map[string]int{}}
	for _, name := range services() {
		text, err := kubectl(ctx, "", "get", "deployment", name, "-n", namespace, "-o", "json")
		if err != nil {
			return nil, err
		}
		var made struct {
			Spec struct {
				Replicas int
				Template struct {
					Spec struct{ Containers []struct{ Env []envVar } }
				}
			}
		}
		if err := json.Unmarshal([]byte(text), &made); err != nil {
			return nil, fmt.Errorf("settings of %s: %w", name, err)
		}
		d.env[name], d.replicas[name] = made.Spec.Template.Spec.Containers[0].Env, max(1, made.Spec.Replicas)
		d.postgres = d.postgres || slices.ContainsFunc(d.env[name], func(v envVar) bool { return v.Name == "AUDIT_DATABASE_URL" })
	}
	if d.postgres {
		return d, nil
	}
	for _, name := range []string{"taskapi", "auditor"} {
		text, err := kubectl(ctx, "", "get", "pvc", name, "-n", namespace, "-o",
			`jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}`)
		if err != nil {
			return nil, err
		}
		d.claims = append(d.claims, text)
	}
	return d, nil
}

// set scales a Deployment, with the settings of the manifests and these.
func (d *deployed) set(ctx context.Context, name string, replicas int, settings map[string]string) error {
	env := slices.DeleteFunc(slices.Clone(d.env[name]), func(v envVar) bool { _, ok := settings[v.Name]; return ok })
	for key, value := range settings {
		env = append(env, envVar{Name: key, Value: value})
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/spec/template/spec/containers/0/env", "value": env},
		{"op": "replace", "path": "/spec/replicas", "value": replicas},
	})
	if err != nil {
		return err
	}
	_, err = kubectl(ctx, "", "patch", "deployment", name, "-n", namespace, "--type=json", "-p", string(patch))
	return err
}

// empty stops everything and replaces the volumes or databases.
func (d *deployed) empty(ctx context.Context) error {
	for _, name := range services() {
		if err := d.set(ctx, name, 0, nil); err != nil {
			return err
		}
	}
	if _, err := kubectl(ctx, "", "wait", "pod", "-n", namespace, "-l", "app.kubernetes.io/part-of=taskwire", "--for=delete", "--timeout=90s"); err != nil {
		return err
	}
	if d.postgres {
		return emptyDatabases(ctx)
	}
	if _, err := kubectl(ctx, "", "delete", "pvc", "taskapi", "auditor", "-n", namespace, "--wait", "--ignore-not-found"); err != nil {
		return err
	}
	for _, claim := range d.claims {
		if _, err := kubectl(ctx, claim, "apply", "-n", namespace, "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

func emptyDatabases(ctx context.Context) error {
	statements := []string{
		"DROP DATABASE IF EXISTS tasks WITH (FORCE)", "DROP DATABASE IF EXISTS audit WITH (FORCE)",
		"CREATE DATABASE tasks OWNER taskapi", "CREATE DATABASE audit OWNER auditor",
	}
	if d, err := readDatabase(ctx); err == nil {
		_, err := psql(ctx, d.Primary, statements...)
		return err
	}
	for _, statement := range statements {
		if _, err := kubectl(ctx, "", "exec", "postgres-0", "-n", "postgres", "--", "psql", "-h", "127.0.0.1", "-U", "postgres", "-c", statement); err != nil {
			return err
		}
	}
	return nil
}

func (d *deployed) restore() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience())
	defer cancel()
	for _, name := range services() {
		if err := d.set(ctx, name, d.replicas[name], nil); err != nil {
			return err
		}
	}
	for _, name := range services() {
		if _, err := kubectl(ctx, "", "rollout", "status", "deployment/"+name, "-n", namespace, "--timeout=120s"); err != nil {
			return err
		}
	}
	return nil
}

// cluster runs each service as a Deployment of one pod or none.
type cluster struct {
	w        *world
	deployed *deployed
	broker   *forward
	mu       sync.Mutex
	pods     map[string]*clusterPod
}

// clusterPod is a running pod, its forwarded ports and its log.
type clusterPod struct {
	name  string
	ports *forward
	logs  *child.Process // it ends when the container has
}

func newCluster(w *world, d *deployed) (system, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience())
	defer cancel()
	c := &cluster{w: w, deployed: d, pods: map[string]*clusterPod{}}
	if err := d.empty(ctx); err != nil {
		return nil, fmt.Errorf("empty the system: %w", err)
	}
	if err := c.start(broker); err != nil {
		return nil, err
	}
	if err := renew(ctx, append(c.kafkaOpts(), kgo.SeedBrokers(c.brokers()))...); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *cluster) brokers() string { return "task-events-kafka-bootstrap.kafka:9092" }

// kafkaOpts maps every advertised broker address to the forwarded port.
func (c *cluster) kafkaOpts() []kgo.Opt {
	return []kgo.Opt{kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, c.w.address(9092))
	})}
}

func (c *cluster) start(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience())
	defer cancel()
	if name == broker {
		return c.startBroker(ctx)
	}
	if err := c.deployed.set(ctx, name, 1, c.w.env); err != nil {
		return err
	}
	selector := []string{"-n", namespace, "-l", "app.kubernetes.io/name=" + name}
	pod, err := startedPod(ctx, selector)
	if err != nil {
		return err
	}
	logs, err := child.Start(exec.Command("kubectl", "logs", "-f", pod, "-n", namespace), c.w.logFile(name))
	if err != nil {
		return err
	}
	p := &clusterPod{name: pod, logs: logs}
	port := 8000 + slices.Index(services(), name)
	p.ports = startForward(namespace, "pod/"+pod, c.w.address(port), port, c.w.address(port+1000), port+1000)
	c.mu.Lock()
	c.pods[name] = p
	c.mu.Unlock()
	return poll(ctx, func() error { return c.volume(ctx, name) })
}

// volume returns why a service cannot use its volume: the permissions of a new
// one may not be set yet. The service waits for it, and so must a script.
func (c *cluster) volume(ctx context.Context, name string) error {
	body, err := c.w.probe(ctx, name, "readyz")
	if err == nil || body != "" && !strings.Contains(body, "/data/") {
		return nil
	}
	if how, ended := c.ended(name); ended {
		return fatal(fmt.Errorf("the process ended: %s", how))
	}
	return err
}

func (c *cluster) startBroker(ctx context.Context) error {
	if _, err := kubectl(ctx, "", "scale", "statefulset/task-events-kafka", "-n", kafkaNamespace, "--replicas=1"); err != nil {
		return err
	}
	if _, err := kubectl(ctx, "", "rollout", "status", "statefulset/task-events-kafka", "-n", kafkaNamespace, "--timeout=90s"); err != nil {
		return err
	}
	c.broker = startForward(kafkaNamespace, "pod/"+kafkaPod, c.w.address(9092), 9092)
	return nil
}

// startedPod waits until the one pod of the selector has a running container.
func startedPod(ctx context.Context, selector []string) (string, error) {
	var pod string
	err := poll(ctx, func() error {
		out, err := kubectl(ctx, "", append([]string{"get", "pods", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].started} {.metadata.deletionTimestamp}{"\n"}{end}`}, selector...)...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if words := strings.Fields(line); len(words) == 2 && words[1] == "true" {
				pod = words[0]
				return nil
			}
		}
		return fmt.Errorf("no pod of %v has started: %q", selector, out)
	})
	return pod, err
}

// stop ends the pod as a rollout does, and checks its exit status.
func (c *cluster) stop(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience())
	defer cancel()
	if name == broker {
		c.broker.stop()
		if _, err := kubectl(ctx, "", "scale", "statefulset/task-events-kafka", "-n", kafkaNamespace, "--replicas=0"); err != nil {
			return err
		}
		_, err := kubectl(ctx, "", "wait", "pod/"+kafkaPod, "-n", kafkaNamespace, "--for=delete", "--timeout=90s")
		return err
	}
	c.mu.Lock()
	p, ok := c.pods[name]
	delete(c.pods, name)
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("%s is not running", name)
	}
	end := watchEnd(ctx, p.name)
	if err := c.deployed.set(ctx, name, 0, c.w.env); err != nil {
		return err
	}
	err := <-end
	p.ports.stop()
	<-p.logs.Done()
	return err
}

// watchEnd sends the error of a pod's container once the pod is deleted.
func watchEnd(ctx context.Context, pod string) <-chan error {
	end := make(chan error, 1)
	cmd := exec.CommandContext(ctx, "kubectl", "get", "pod", pod, "-n", namespace, "--watch", "--output-watch-events", "-o", "json")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		end <- err
		return end
	}
	go func() {
		err := exitStatus(json.NewDecoder(out))
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		end <- err
	}()
	return end
}

func exitStatus(events *json.Decoder) error {
	for {
		var event struct {
			Type   string
			Object struct {
				Status struct {
					ContainerStatuses []struct {
						RestartCount int
						State        struct{ Terminated *struct{ ExitCode int } }
					}
				}
			}
		}
		if err := events.Decode(&event); err != nil {
			return fmt.Errorf("watch the pod's end: %w", err)
		}
		if event.Type != "DELETED" {
			continue
		}
		for _, s := range event.Object.Status.ContainerStatuses {
			if s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 || s.RestartCount != 0 {
				return fmt.Errorf("the pod ended with %+v, want exit status 0 and no restart", s)
			}
		}
		return nil
	}
}

func (c *cluster) kill(string) error {
	return errors.New("scripts cannot kill on the node; begin the script with [!processes] skip (TestClusterUnderLoad kills)")
}

func (c *cluster) ended(name string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pods[name]
	if !ok {
		return "not started", true
	}
	select {
	case <-p.logs.Done():
		return "its container ended", true
	default:
		return "", false
	}
}

// close stops all pods at once; the next script begins with none.
func (c *cluster) close() error {
	c.mu.Lock()
	names := []string{}
	for name := range c.pods {
		names = append(names, name)
	}
	c.mu.Unlock()
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			if err := c.stop(name); err != nil {
				errs[i] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	all.Wait()
	c.broker.stop()
	return errors.Join(errs...)
}

// fetchAudit copies the audit log while the auditor is running.
func (c *cluster) fetchAudit(path string) error {
	c.mu.Lock()
	p, ok := c.pods["auditor"]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	text, err := kubectl(context.Background(), "", "exec", p.name, "-n", namespace, "--", "/ko-app/auditor", "cat")
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}

// inside runs the bridge's dead letter commands in its pod.
func (c *cluster) inside(words []string) []string {
	if len(words) < 2 || words[0] != "bridge" || words[1] != "dlq" {
		return words
	}
	return append([]string{"env", "KUBECONFIG=" + os.Getenv("KUBECONFIG"), "HOME=" + os.Getenv("HOME"),
		"kubectl", "exec", "deploy/bridge", "-n", namespace, "--", "/ko-app/bridge"}, words[1:]...)
}

func (c *cluster) tool(ctx context.Context, script, _ string, args []string) (string, error) {
	return kubectl(ctx, "", append([]string{"exec", kafkaPod, "-n", kafkaNamespace, "--", script}, args...)...)
}

// forward is kubectl port-forward, restarted whenever it ends, as it does when
// the pod refuses a connection.
type forward struct {
	cancel  context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	current context.CancelFunc // of the running kubectl
}

// startForward takes pairs of a local address and a port of the pod.
func startForward(ns, target string, pairs ...any) *forward {
	args := []string{"port-forward", target, "-n", ns}
	for i := 0; i < len(pairs); i += 2 {
		_, local, _ := net.SplitHostPort(pairs[i].(string))
		args = append(args, fmt.Sprintf("%s:%d", local, pairs[i+1]))
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &forward{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		for ctx.Err() == nil {
			one, cancel := context.WithCancel(ctx)
			f.mu.Lock()
			f.current = cancel
			f.mu.Unlock()
			_ = exec.CommandContext(one, "kubectl", args...).Run()
			cancel()
			pause(ctx)
		}
	}()
	return f
}

func (f *forward) stop() { f.cancel(); <-f.done }

// again replaces a kubectl that is running but forwards nothing, as happens
// after its container was killed.
func (f *forward) again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current()
}
