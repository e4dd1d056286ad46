//go:build alerts && linux

package alerts_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/freeport"
)

// outboxLimit is more than the 100 events of TaskwireBridgeLag.
const outboxLimit = 150

// patience is for what takes seconds, longer for five minutes of waiting and for
// rules that look six minutes back. They decide only how long a failure takes.
const (
	patience = 90 * time.Second
	longer   = 7 * time.Minute
)

const token = "0123456789abcdef0123456789abcdef"

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 30 * time.Second}

// system is the four services, and a second bridge with a broker of its own: what is
// done to the others must not touch the event that it has to hold for five minutes.
type system struct {
	dir, volume string // volume is a small one, with the audit log
	key         string // of the audit log
	broker      *embedkafka.Broker
	archived    *embedkafka.Broker
	registry    *srfake.Registry // of the Task API and its bridge
	crm         *sink
	archive     *sink
	services    map[string]*service
	scraper     *child.Process
	prometheus  string // its URL
	calm        func() // ends what loop does
}

type service struct {
	*child.Process
	program   string
	addr, ops string
	env       []string
}

// sink answers each post with a status.
type sink struct {
	*httptest.Server
	status atomic.Int32
}

func newSink(t *testing.T) *sink {
	s := &sink{}
	s.answer(http.StatusNoContent)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(int(s.status.Load())) }))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) answer(status int) { s.status.Store(int32(status)) }

// open starts everything and returns when it is ready.
func open(t *testing.T) *system {
	t.Helper()
	s := &system{dir: t.TempDir(), services: map[string]*service{}, calm: func() {}}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.dir+"/bin/", "./taskapi", "./bridge", "./notifier", "./auditor")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.mount(t)
	s.crm, s.archive = newSink(t), newSink(t)
	s.registry = srfake.New()
	t.Cleanup(s.registry.Close)
	s.openBroker(t)
	t.Cleanup(func() { must(t, s.broker.Close()) })
	var err error
	s.archived, err = embedkafka.Start(embedkafka.Config{Topics: map[string]int{"archive-dlq": 1, "taskwire-control": 1}, Compact: []string{"taskwire-control"}})
	must(t, err)
	t.Cleanup(func() { must(t, s.archived.Close()) })
	t.Cleanup(func() { s.end(t) })
	must(t, s.archived.Cluster().CreateTopic("archive", 1, map[string]string{"retention.ms": fmt.Sprint((24 * time.Hour).Milliseconds())}))

	s.add("taskapi", "taskapi", "DATABASE_URL=sqlite:"+s.path("tasks.db"), "KAFKA_BOOTSTRAP_SERVERS="+s.broker.Addr(),
		fmt.Sprint("OUTBOX_LIMIT=", outboxLimit), "API_TOKENS_FILE="+s.path("api-tokens"), "EVENT_SIGNING_KEY_FILE="+s.path("signing-key"),
		"EVENT_ENCODING=avro", "SCHEMA_REGISTRY_URL="+s.registry.URL())
	s.add("auditor", "auditor", "AUDIT_LOG_PATH="+filepath.Join(s.volume, "audit.log"), "AUDIT_SIGNING_KEY_FILE="+s.path("audit-key"),
		"EVENT_VERIFY_KEYS_FILE="+s.path("verify-keys"))
	s.add("notifier", "notifier", "WEBHOOK_SECRET_FILE="+s.path("secret"))
	s.add("bridge", "bridge", "KAFKA_BOOTSTRAP_SERVERS="+s.broker.Addr(), "KAFKA_GROUP_INSTANCE_ID=alerts", "BRIDGE_CONFIG="+s.path("bridge.yaml"),
		"BRIDGE_STATE_KEY_FILE="+s.path("state-key"), "SCHEMA_REGISTRY_URL="+s.registry.URL())
	s.add("archive", "bridge", "KAFKA_BOOTSTRAP_SERVERS="+s.archived.Addr(), "BRIDGE_CONFIG="+s.path("archive.yaml"))
	s.secrets(t)
	s.write(t, "bridge.yaml", s.subscriptions())
	s.write(t, "archive.yaml", "subscriptions:\n- {name: archive, group: archive, topic: archive, sink: "+s.archive.URL+"/, exhausted: block}\n")
	for _, name := range []string{"auditor", "notifier", "archive", "bridge", "taskapi"} {
		s.start(t, name)
	}
	s.monitor(t)
	return s
}

func (s *system) secrets(t *testing.T) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	key, err := eventsign.MarshalPrivateKey(private)
	must(t, err)
	s.write(t, "signing-key", string(key))
	s.write(t, "verify-keys", "task-api "+eventsign.PublicText(public)+"\n")
	s.write(t, "secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
	s.write(t, "state-key", token+"\n")
	s.write(t, "api-tokens", "tester "+token+"\n")
	out, err := exec.CommandContext(t.Context(), s.path("bin/auditor"), "key", "--new").Output()
	must(t, err)
	s.write(t, "audit-key", string(out))
}

func (s *system) subscriptions() string {
	return `subscriptions:
- {name: notifications, group: notification-service, sink: "http://` + s.services["notifier"].addr + `/", types: [task.created, task.completed], signing: {secret_file: ` + s.path("secret") + `}}
- {name: audit, group: audit-service, sink: "http://` + s.services["auditor"].addr + `/", exhausted: block}
- {name: crm, group: crm, sink: ` + s.crm.URL + `/}
`
}

// mount gives the auditor a volume of its own, which the test can fill.
func (s *system) mount(t *testing.T) {
	t.Helper()
	s.volume = s.path("volume")
	must(t, os.Mkdir(s.volume, 0o700))
	if err := syscall.Mount("tmpfs", s.volume, "tmpfs", 0, "size=128m,mode=0700"); err != nil {
		t.Fatalf("mount a small volume: %v; run make alerts as root", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(s.volume, syscall.MNT_DETACH) })
}

// openBroker starts the broker, the second time at the address and with the data
// that it had.
func (s *system) openBroker(t *testing.T) {
	t.Helper()
	cfg := embedkafka.Config{DataDir: s.path("kafka"), Topics: map[string]int{"task-events": 1, "task-events-dlq": 1, "taskwire-control": 1}, Compact: []string{"taskwire-control"}}
	if s.broker != nil {
		cfg.Addr = s.broker.Addr()
	}
	var err error
	s.broker, err = embedkafka.Start(cfg)
	must(t, err)
}

func (s *system) add(name, program string, env ...string) {
	v := &service{program: program, addr: freeport.Addr(), ops: freeport.Addr()}
	v.env = append([]string{"LISTEN_ADDR=" + v.addr, "OPS_ADDR=" + v.ops, "LOG_FORMAT=json"}, env...)
	s.services[name] = v
}

// run starts a program, which the end of the test stops.
func (s *system) run(t *testing.T, name, program string, env []string, args ...string) *child.Process {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = env, s.dir
	p, err := child.Start(cmd, s.path(name+".log"))
	must(t, err)
	return p
}

// end stops what runs, each after those that send to it.
func (s *system) end(t *testing.T) {
	for _, name := range []string{"taskapi", "bridge", "archive", "notifier", "auditor"} {
		v := s.services[name]
		if v == nil || v.Process == nil {
			continue
		}
		if err := v.End(syscall.SIGTERM, time.Minute); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			text, _ := os.ReadFile(s.path(name + ".log"))
			t.Logf("the end of the log of %s:\n%s", name, text[max(0, len(text)-3000):])
		}
	}
	if s.scraper != nil {
		if err := s.scraper.End(syscall.SIGTERM, time.Minute); err != nil {
			t.Error(err)
		}
	}
}

// launch starts a service with env over its settings, and does not wait for it.
func (s *system) launch(t *testing.T, name string, env ...string) {
	t.Helper()
	v := s.services[name]
	v.Process = s.run(t, name, s.path("bin/"+v.program), append(v.env[:len(v.env):len(v.env)], env...))
}

func (s *system) start(t *testing.T, name string, env ...string) {
	t.Helper()
	s.launch(t, name, env...)
	must(t, s.services[name].AwaitReady(t.Context(), "http://"+s.services[name].ops+"/readyz"))
}

func (s *system) stop(t *testing.T, name string, signal syscall.Signal) {
	t.Helper()
	must(t, s.services[name].End(signal, time.Minute))
}

// bridge runs a command of the bridge, as the runbooks do.
func (s *system) bridge(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.path("bin/bridge"), args...)
	cmd.Env = []string{"ADMIN_URL=http://" + s.services["bridge"].addr}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("bridge %v: %v\n%s", args, err, out)
	}
}

// change creates a task and returns the status, 0 without an answer.
func (s *system) change(t *testing.T) int {
	return s.send(t, http.MethodPost, "taskapi", "/tasks", "application/json", "Bearer "+token, []byte(`{"title":"an alert"}`))
}

func (s *system) create(t *testing.T, want int) {
	t.Helper()
	if status := s.change(t); status != want {
		t.Fatalf("POST /tasks was answered %d, want %d", status, want)
	}
}

func (s *system) post(t *testing.T, service string, want int, event []byte) {
	t.Helper()
	if status := s.send(t, http.MethodPost, service, "/", "application/cloudevents+json", "", event); status != want {
		t.Fatalf("an event posted to the %s was answered %d, want %d", service, status, want)
	}
}

func (s *system) send(t *testing.T, method, service, path, contentType, authorization string, body []byte) int {
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.services[service].addr+path, bytes.NewReader(body))
	if err != nil {
		return 0
	}
	req.Header.Set("Content-Type", contentType)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// loop does one, ten times a second, until the alert has fired.
func (s *system) loop(t *testing.T, one func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				one()
			}
		}
	})
	s.calm = sync.OnceFunc(func() { close(done); wg.Wait() })
	t.Cleanup(s.calm)
}

func (s *system) await(t *testing.T, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v until %s", limit, what)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func (s *system) write(t *testing.T, name, content string) {
	t.Helper()
	must(t, os.WriteFile(s.path(name), []byte(content), 0o600))
}

func (s *system) read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(s.path(name))
	must(t, err)
	return string(content)
}

func port(addr string) string { return addr[strings.LastIndex(addr, ":"):] }
