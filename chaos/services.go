package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/child"
	"github.com/taskwire/taskwire/internal/freeport"
	"github.com/taskwire/taskwire/internal/retry"
)

func (y *system) build(ctx context.Context) error {
	if y.Bin != "" {
		var err error
		y.Bin, err = filepath.Abs(y.Bin)
		return err
	}
	y.Bin = y.path("bin")
	return buildPrograms(ctx, ".", y.Bin, y.Tags)
}

func buildPrograms(ctx context.Context, tree, bin, tags string) error {
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-trimpath", "-tags", tags, "-o", bin+"/", "./taskapi", "./bridge", "./notifier", "./auditor")
	cmd.Dir = tree
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}

func (y *system) startServices(ctx context.Context) error {
	y.mountDisk()
	err := y.writeSecrets()
	if err != nil {
		return err
	}
	if y.Encoding == "avro" {
		if err := y.startRegistry(ctx); err != nil {
			return err
		}
	}
	if y.Database == "postgres" {
		if err := y.startPostgres(ctx); err != nil {
			return err
		}
	}
	if err := y.startAuditors(ctx); err != nil {
		return err
	}
	if y.notices, err = y.startSinks(y.notifierCount(), "notifier", "notices.jsonl"); err != nil {
		return err
	}
	for i := range y.bridgeCount() {
		b, err := y.newBridge(fmt.Sprintf("bridge-%d", i+1))
		if err != nil {
			return err
		}
		y.targets = append(y.targets, b)
		if err := b.Up(); err != nil {
			return err
		}
	}
	if y.extraBridge, err = y.newBridge(fmt.Sprintf("bridge-%d", y.bridgeCount()+1)); err != nil {
		return err
	}
	y.load = &load{clock: y.clock, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: y.Workers},
	}}
	if err := y.startTaskAPIs(ctx); err != nil {
		return err
	}
	return y.awaitReady(ctx)
}

// startTaskAPIs starts one, or two that share a PostgreSQL. In a sweep it is always
// one: only the relay of one of them would come to the points of a relay.
func (y *system) startTaskAPIs(ctx context.Context) error {
	names, database := []string{"taskapi"}, "sqlite:"+y.path("tasks.db")
	if y.Database == "postgres" {
		database = y.postgres.url()
		if y.Strikes == nil {
			names = append(names, "taskapi-2")
		}
	}
	settings := append(y.signed("EVENT_SIGNING_KEY_FILE", signingKeyFile), "DATABASE_URL="+database, "OUTBOX_RETENTION=8760h")
	settings = append(settings, y.encoded()...)
	y.addSpare("taskapi", settings)
	for _, name := range names {
		api, err := y.startProgram(name, settings...)
		if err != nil {
			return err
		}
		p, err := y.proxy("client->"+name, "client->taskapi", api)
		if err != nil {
			return err
		}
		y.routes[name] = p.connectTo
		y.load.apis = append(y.load.apis, "http://"+p.addr)
	}
	return nil
}

// mountDisk gives the audit log a small file system if a fault is to fill it.
func (y *system) mountDisk() {
	y.logDir = y.Dir
	if y.auditsDatabase() {
		y.noDisk = "the audit log is in PostgreSQL"
		return
	}
	if !slices.Contains(strings.Split(y.Faults, ","), "disk") {
		return
	}
	most := int64(y.Duration.Seconds() * y.Rate * float64(y.Workers)) // changes
	d, err := newDisk(y.path("disk"), 32<<20+2048*most)
	if err != nil {
		y.noDisk = err.Error()
		return
	}
	y.disk, y.logDir = d, d.path
}

// startSinks starts n of a sink and the recorder in front of them.
func (y *system) startSinks(n int, name, file string, env ...string) (*recorder, error) {
	f, err := y.file(file)
	if err != nil {
		return nil, err
	}
	r, err := newRecorder(y.clock, f)
	if err != nil {
		return nil, err
	}
	r.pauses = &y.pauses
	env = append(env, "WEBHOOK_SECRET_FILE="+y.path(secretFile))
	y.addSpare(name, env)
	for i := range n {
		each := name
		if i > 0 {
			each = fmt.Sprintf("%s-%d", name, i+1)
		}
		addr, err := y.startProgram(each, env...)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		y.routes[each] = r.sink(addr)
	}
	return r, nil
}

func (y *system) startProgram(name string, more ...string) (addr string, err error) {
	p := y.newProgram(name, more...)
	y.targets = append(y.targets, p)
	return y.addrs[name], p.Up()
}

// newProgram returns a program that is down.
func (y *system) newProgram(name string, more ...string) *program {
	y.addrs[name], y.ops[name] = freeport.Addr(), freeport.Addr()
	return &program{name: name, path: filepath.Join(y.Bin, roleOf(name)), dir: y.Dir,
		env: func(int) ([]string, error) { return y.environment(name, y.addrs[name], more...), nil }}
}

// roleOf is the program of taskapi-2.
func roleOf(name string) string {
	role, _, _ := strings.Cut(name, "-")
	return role
}

func (y *system) environment(name, addr string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "LISTEN_ADDR=" + addr, "OPS_ADDR=" + y.ops[name], "LOG_FORMAT=json", "SHUTDOWN_GRACE=5s",
		"KAFKA_BOOTSTRAP_SERVERS=" + y.bootstrap[name], "KAFKA_TOPIC=" + topic,
		"KAFKA_CREATE_TOPICS=true", fmt.Sprintf("KAFKA_TOPIC_PARTITIONS=%d", y.partitions()),
	}, more...)
}

// newBridge returns a bridge that is down. Each start of it posts to a path of
// its own, so that the recorder can separate the posts of a killed bridge from
// those of the next.
func (y *system) newBridge(name string) (*program, error) {
	audit, err := y.proxy(name+"->auditor", "bridge->auditor", y.rec.addr)
	if err != nil {
		return nil, err
	}
	notify, err := y.proxy(name+"->notifier", "bridge->notifier", y.notices.addr)
	if err != nil {
		return nil, err
	}
	addr := freeport.Addr()
	y.ops[name], y.admin[name] = freeport.Addr(), addr
	p := &program{name: name, path: filepath.Join(y.Bin, "bridge"), dir: y.Dir}
	config := &bridgeFile{path: y.path(name + ".yaml")}
	p.env = func(start int) ([]string, error) {
		via := fmt.Sprintf("%s.%d", name, start)
		text := subscriptions("http://"+audit.addr+"/"+via, "http://"+notify.addr+"/"+via, y.path(secretFile), y.modes())
		if err := config.begin(text); err != nil {
			return nil, err
		}
		env := y.environment(name, addr, "BRIDGE_CONFIG="+config.path)
		env = append(env, y.encoded()...)
		if name == "bridge-1" || y.quorum != nil || y.Scale { // one member is static, the others are not; with several brokers all are
			env = append(env, "KAFKA_GROUP_INSTANCE_ID="+name)
		}
		return env, nil
	}
	y.bridges, y.configs = append(y.bridges, p), append(y.configs, config)
	return p, nil
}

// modes are how the auditor and the notifier get their events: in batches when
// the seed is even, the notifier in every other of those runs.
func (y *system) modes() [2]string {
	modes := [2]string{"structured", "structured"}
	if y.Seed%2 == 0 {
		modes[0] = "batch"
	}
	if y.Seed%4 == 0 {
		modes[1] = "batch"
	}
	return modes
}

func subscriptions(audit, notify, secret string, modes [2]string) string {
	return fmt.Sprintf(`topic: %s
subscriptions:
  - name: audit
    group: %s
    sink: %s
    mode: %s
    exhausted: block
    signing: {secret_file: %s}
    timeout: 3s
    retry: {initial: 50ms, max: 1s}
  - name: notifications
    group: %s
    sink: %s
    mode: %s
    types: [%s]
    signing: {secret_file: %s}
    timeout: 3s
    retry: {initial: 50ms, max: 1s}
`, topic, auditGroup, audit, modes[0], secret, noticeGroup, notify, modes[1], strings.Join(noticeTypes, ", "), secret)
}

// awaitReady returns when the API, the bridges and the auditor are ready: the embedded
// broker never forgets a member of a group that is killed while it joins the first time.
func (y *system) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	names := []string{"taskapi", "auditor"}
	for _, b := range y.bridges[:y.bridgeCount()] {
		names = append(names, b.name)
	}
	for _, name := range names {
		// A child that ends is restarted: it is not waited for by child.Process.
		for !y.ready(ctx, name) {
			if retry.Pause(ctx, 50*time.Millisecond) != nil {
				return fmt.Errorf("%s is not ready: see %s", name, y.path(name+".log"))
			}
		}
	}
	return nil
}

func (y *system) ready(ctx context.Context, name string) bool {
	return child.Ready(ctx, "http://"+y.ops[name]+"/readyz") == nil
}
