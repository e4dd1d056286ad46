package kafkatest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

const (
	oldestJava   = 17
	startTimeout = 90 * time.Second // two cores may be shared by several test processes
	stopTimeout  = 30 * time.Second
)

// Real is an Apache Kafka in its own process, broker and controller in one. It
// ends with this process, however this process ends. Its methods must not be
// called concurrently.
type Real struct {
	Brokers []string // unchanged by Restart
	// Libs holds the jars and Java is the program, for the command-line tools.
	Libs, Java string
	// Listeners has the address of each listener of Options, unchanged by Restart.
	Listeners map[string]string

	opts   Options
	ports  [2]int  // broker, controller
	quorum *quorum // nil for a node on its own
	node   int

	mu    sync.Mutex // guards the fields below
	jvm   *exec.Cmd  // nil when stopped
	guard *child.Guard
}

// Options say how a real Kafka runs; Dir must be set.
type Options struct {
	Dir        string   // configuration, log and data; formatted if it is new
	Scratch    bool     // remove Dir when this process dies
	Port       int      // on 127.0.0.1; the controller takes the next one; 0 chooses free ones
	Properties []string // lines for server.properties that override the defaults here
	// Listeners adds listeners by name, each with the address that it advertises,
	// such as that of a proxy in front of it.
	Listeners map[string]string
	Progress  io.Writer // progress of a download, which takes a while
}

// OpenReal downloads Kafka if necessary and returns when the broker accepts requests.
func OpenReal(ctx context.Context, opts Options) (*Real, error) {
	java, err := findJava(ctx)
	if err != nil {
		return nil, err
	}
	libs, err := Fetch(ctx, opts.Progress)
	if err != nil {
		return nil, err
	}
	r := &Real{Java: java, Libs: libs, opts: opts, node: 1}
	for tries := 3; ; tries-- {
		// The formatted folder contains the controller's port, so a fixed port for
		// the broker needs a fixed one for the controller.
		r.ports = [2]int{opts.Port, opts.Port + 1}
		if opts.Port == 0 {
			r.ports = [2]int{freeport.Port(), freeport.Port()}
		}
		r.Brokers = []string{loopback(r.ports[0])}
		r.Listeners = map[string]string{}
		for name := range opts.Listeners {
			r.Listeners[name] = freeport.Addr()
		}
		if err = r.configure(ctx); err != nil {
			return nil, err
		}
		err = r.start(ctx)
		// Another process may take a port after it was chosen.
		if err == nil || tries == 1 || opts.Port != 0 || !strings.Contains(err.Error(), "Address already in use") {
			break
		}
		if err := os.RemoveAll(r.path("data")); err != nil { // it is still empty
			return nil, fmt.Errorf("choose other ports: %w", err)
		}
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// findJava returns the path of a runtime that is new enough.
func findJava(ctx context.Context) (string, error) {
	const advice = "a real Apache Kafka needs a Java runtime of version 17 or newer, install one (Debian: apt-get install openjdk-17-jre-headless) or leave KAFKA_REAL unset"
	java := filepath.Join(os.Getenv("JAVA_HOME"), "bin", "java")
	if os.Getenv("JAVA_HOME") == "" {
		var err error
		if java, err = exec.LookPath("java"); err != nil {
			return "", errors.New("no java on the PATH: " + advice)
		}
	}
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s does not run (%w): %s", java, err, advice)
	}
	m := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("%s does not print its version: %s", java, advice)
	}
	if v, err := strconv.Atoi(string(m[1])); err != nil || v < oldestJava {
		return "", fmt.Errorf("%s is version %s: %s", java, m[1], advice)
	}
	return java, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (r *Real) path(name string) string { return filepath.Join(r.opts.Dir, name) }

// configure writes server.properties and formats the data folder.
func (r *Real) configure(ctx context.Context) error {
	listeners := "PLAINTEXT://" + loopback(r.ports[0]) + ",CONTROLLER://" + loopback(r.ports[1])
	advertised, protocols := "PLAINTEXT://"+loopback(r.ports[0]), "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
	for name, addr := range r.Listeners {
		listeners += "," + name + "://" + addr
		advertised += "," + name + "://" + r.opts.Listeners[name]
		protocols += "," + name + ":PLAINTEXT"
	}
	lines := append([]string{
		"process.roles=broker,controller",
		fmt.Sprintf("node.id=%d", r.node),
		r.quorum.property(r.ports[1]),
		"listeners=" + listeners,
		"advertised.listeners=" + advertised,
		"controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=" + protocols,
		"log.dirs=" + r.path("data"),
		"auto.create.topics.enable=false",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=1000",
		// One node, and each internal partition slows its start.
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"transaction.state.log.num.partitions=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"share.coordinator.state.topic.num.partitions=1",
		// A killed broker can register again only when its session has expired.
		"broker.session.timeout.ms=3000",
		"broker.heartbeat.interval.ms=500",
	}, r.opts.Properties...)
	if err := os.MkdirAll(r.opts.Dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of Apache Kafka: %w", err)
	}
	if err := os.WriteFile(r.path("server.properties"), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return fmt.Errorf("configure Apache Kafka: %w", err)
	}
	if _, err := os.Stat(r.path("data/meta.properties")); err == nil {
		return nil // formatted before, with its own id
	}
	args := []string{"kafka.tools.StorageTool", "format", "-c", r.path("server.properties"), "-t"}
	if r.quorum != nil {
		args = append(args, r.quorum.id)
	} else {
		args = append(args, newID(), "--standalone")
	}
	format := r.command(ctx, args...)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format the folder of Apache Kafka: %w\n%s", err, lastLines(out))
	}
	return nil
}

// newID returns the id of a cluster.
func newID() string {
	id := make([]byte, 16)
	rand.Read(id) // never fails
	id[0] &= 0x7f // a leading dash would look like an option
	return base64.RawURLEncoding.EncodeToString(id)
}

func (r *Real) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, r.Java, append([]string{
		"-Xmx" + r.quorum.heap(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS", "-cp", r.Libs + "/*",
	}, args...)...)
}

// Tool runs one of Kafka's command-line tools by its class, such as
// org.apache.kafka.tools.TopicCommand, and returns what it printed.
func (r *Real) Tool(ctx context.Context, class string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := r.command(ctx, append([]string{class}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", class, err, stderr.String())
	}
	return stdout.String(), nil
}

// start runs the broker and returns when it accepts requests.
func (r *Real) start(ctx context.Context) error {
	log, err := os.OpenFile(r.path("broker.log"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log of Apache Kafka: %w", err)
	}
	defer log.Close()
	// A Cmd with a context or a pipe has goroutines that outlive the test.
	jvm := r.command(context.WithoutCancel(ctx), "kafka.Kafka", r.path("server.properties"))
	jvm.Stdout, jvm.Stderr = log, log
	jvm.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C goes to the tests alone
	if err := jvm.Start(); err != nil {
		return fmt.Errorf("start Apache Kafka: %w", err)
	}
	guard, err := child.NewGuard(jvm.Process.Pid, r.scratch(), syscall.SIGKILL)
	if err != nil {
		return errors.Join(err, jvm.Process.Kill(), ignoreExit(jvm.Wait()))
	}
	r.mu.Lock()
	r.jvm, r.guard = jvm, guard
	r.mu.Unlock()
	if err := r.await(ctx, jvm.Process.Pid); err != nil {
		return errors.Join(fmt.Errorf("start Apache Kafka: %w\n%s", err, r.lastLines()), r.Kill())
	}
	return nil
}

func (r *Real) scratch() string {
	if r.opts.Scratch {
		return r.opts.Dir
	}
	return ""
}

// await polls until the broker is registered and a controller leads.
func (r *Real) await(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	cfg := kafka.Config{Brokers: r.Brokers, ClientID: "kafkatest"}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		return err
	}
	defer transport.Close()
	client := kafka.NewClient(cfg, transport)
	for {
		err := ready(ctx, client)
		if err == nil {
			return nil
		}
		transport.CloseIdleConnections()
		if r.exited(pid) {
			return errors.New("the JVM ended at once")
		}
		if end := retry.Pause(ctx, 50*time.Millisecond); end != nil {
			return fmt.Errorf("%w (last error: %w)", end, err)
		}
	}
}

func ready(ctx context.Context, client *kafkago.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	meta, err := client.Metadata(ctx, &kafkago.MetadataRequest{})
	switch {
	case err != nil:
		return err
	case len(meta.Brokers) == 0:
		return errors.New("no broker is registered")
	case meta.Controller.Host == "":
		return errors.New("no controller leads")
	}
	for _, t := range meta.Topics {
		for _, p := range t.Partitions {
			if p.Leader.Host == "" {
				return fmt.Errorf("partition %d of %s has no leader", p.ID, t.Name)
			}
		}
	}
	return nil
}

// exited reports, without waiting, whether the JVM has ended.
func (r *Real) exited(pid int) bool {
	var status syscall.WaitStatus
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	if err != nil || got != pid {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jvm = nil
	r.guard.Release()
	return true
}

func (r *Real) lastLines() []byte {
	log, err := os.ReadFile(r.path("broker.log"))
	if err != nil {
		return nil
	}
	return lastLines(log)
}

func lastLines(log []byte) []byte {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-15):], []byte("\n"))
}

// Stop shuts the broker down with SIGTERM; its data stay.
func (r *Real) Stop() error { return r.end(syscall.SIGTERM) }

// Kill ends the broker with SIGKILL, like a crash; its data stay.
func (r *Real) Kill() error { return r.end(syscall.SIGKILL) }

// Signal sends a signal such as SIGSTOP to a running broker.
func (r *Real) Signal(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.jvm == nil {
		return nil
	}
	return r.jvm.Process.Signal(sig)
}

func (r *Real) end(sig syscall.Signal) error {
	r.mu.Lock()
	jvm, guard := r.jvm, r.guard
	r.jvm, r.guard = nil, nil
	r.mu.Unlock()
	if jvm == nil {
		return nil
	}
	defer guard.Release()
	if err := jvm.Process.Signal(sig); err != nil {
		return fmt.Errorf("stop Apache Kafka: %w", err)
	}
	timeout := time.AfterFunc(stopTimeout, func() { _ = jvm.Process.Kill() })
	defer timeout.Stop()
	return ignoreExit(jvm.Wait())
}

// ignoreExit drops the exit status of a process that was stopped on purpose.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// Restart starts the broker again with the same data and ports; a running one
// is stopped first.
func (r *Real) Restart() error {
	if err := r.Stop(); err != nil {
		return err
	}
	return r.start(context.Background())
}
