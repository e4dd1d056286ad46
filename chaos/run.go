package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
)

const (
	topic       = "task-events"
	deadLetters = "task-events-dlq"
	auditGroup  = "audit-service"
	noticeGroup = "notification-service"
	partitions  = 4
)

var noticeTypes = []string{"task.created", "task.completed"} // what the notifier is subscribed to

func run(ctx context.Context, s settings, stdout io.Writer) (rep *check.Report, err error) {
	temporary := s.Dir == ""
	if temporary {
		if s.Dir, err = os.MkdirTemp("", "chaos-*"); err != nil {
			return nil, err
		}
	}
	if s.Dir, err = filepath.Abs(s.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "run.json")); err == nil {
		return nil, fmt.Errorf("%s holds a run already: judge it with check, or name another folder", s.Dir)
	}
	fmt.Fprintf(stdout, "seed %d, kept in %s\n", s.Seed, s.Dir)
	y, err := open(ctx, s, stdout)
	if err != nil {
		return nil, err
	}
	err = y.play(ctx)
	err = errors.Join(err, y.close())
	if err != nil {
		return nil, err
	}
	if rep, err = check.Dir(s.Dir); err != nil {
		return nil, err
	}
	if err := keepReport(s.Dir, rep, stdout); err != nil {
		return nil, err
	}
	if temporary && rep.Verdict == check.Green {
		return rep, os.RemoveAll(s.Dir)
	}
	fmt.Fprintf(stdout, "kept in %s\n", s.Dir)
	return rep, nil
}

func keepReport(dir string, rep *check.Report, stdout io.Writer) error {
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), b, 0o600); err != nil {
		return err
	}
	return rep.Text(stdout)
}

// system is everything that runs.
type system struct {
	settings
	out     io.Writer
	rand    *rand.Rand
	clock   clock
	load    *load
	rec     *recorder // in front of the auditor
	notices *recorder // in front of the notifier
	targets []target  // in the order of their start
	visitor *process  // a bridge that comes and goes, not among the targets
	bridges []*process
	wires   []*wire
	disk    *disk  // the auditor's; nil when it cannot be had
	noDisk  string // why
	logDir  string // the audit log's folder

	brokers   []string          // as this program reaches them: no wire, no fault
	bootstrap map[string]string // the wire to Kafka by process
	ops       map[string]string // operator address by process
	watch     *watch

	// dark: power may fail at any moment, and takes with it what an image has and
	// nobody was told.
	dark atomic.Bool

	// Owned by breakThings.
	turns map[string]int  // of the illnesses over the wires
	hit   map[target]bool // in this round

	saying sync.Mutex // guards out

	mu     sync.Mutex // guards what follows
	files  map[string]*file
	faults []check.Fault
}

func (y *system) path(name string) string { return filepath.Join(y.Dir, name) }

func (y *system) file(name string) (*file, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if f := y.files[name]; f != nil {
		return f, nil
	}
	f, err := os.OpenFile(y.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	y.files[name] = &file{f}
	return y.files[name], nil
}

// open builds and starts everything; what it started is stopped when it fails.
func open(ctx context.Context, s settings, stdout io.Writer) (*system, error) {
	y := &system{settings: s, out: stdout, rand: rand.New(rand.NewPCG(s.Seed, 1)), clock: clock{time.Now()}, files: map[string]*file{},
		ops: map[string]string{}, bootstrap: map[string]string{}, turns: map[string]int{}}
	err := y.build(ctx)
	if err == nil {
		err = y.startBroker(ctx)
	}
	if err == nil {
		err = y.startServices(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, y.close())
	}
	return y, nil
}

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
	y.layDisk()
	var err error
	if y.rec, err = y.sink("auditor", "deliveries.jsonl", "AUDIT_LOG_PATH="+filepath.Join(y.logDir, "audit.log")); err != nil {
		return err
	}
	if y.notices, err = y.sink("notifier", "notices.jsonl"); err != nil {
		return err
	}
	for _, name := range []string{"bridge-1", "bridge-2", "bridge-3"} {
		if err := y.bridge(name); err != nil {
			return err
		}
	}
	api, err := y.program("taskapi", "DATABASE_URL=sqlite:"+y.path("tasks.db"), "OUTBOX_RETENTION=8760h")
	if err != nil {
		return err
	}
	w, err := y.wire("client->taskapi", "client->taskapi", api)
	if err != nil {
		return err
	}
	y.load = &load{clock: y.clock, api: "http://" + w.addr, client: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{MaxIdleConnsPerHost: y.Workers},
	}}
	return y.await(ctx)
}

// layDisk gives the audit log a small file system if a fault is to fill it.
func (y *system) layDisk() {
	y.logDir = y.Dir
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

// sink starts a sink and the recorder in front of it.
func (y *system) sink(name, file string, env ...string) (*recorder, error) {
	addr, err := y.program(name, env...)
	if err != nil {
		return nil, err
	}
	f, err := y.file(file)
	if err != nil {
		return nil, err
	}
	return newRecorder(y.clock, "http://"+addr+"/", f)
}

func (y *system) environment(name, addr string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"), "LISTEN_ADDR=" + addr, "OPS_ADDR=" + y.ops[name], "LOG_FORMAT=json", "SHUTDOWN_GRACE=5s",
		"KAFKA_BOOTSTRAP_SERVERS=" + y.bootstrap[name], "KAFKA_TOPIC=" + topic,
		"KAFKA_CREATE_TOPICS=true", fmt.Sprintf("KAFKA_TOPIC_PARTITIONS=%d", partitions),
	}, more...)
}

func (y *system) program(name string, more ...string) (string, error) {
	addr := freePort()
	y.ops[name] = freePort()
	p := &process{name: name, path: filepath.Join(y.Bin, name), dir: y.Dir,
		env: func(int) ([]string, error) { return y.environment(name, addr, more...), nil }}
	y.targets = append(y.targets, p)
	return addr, p.Up()
}

// bridge posts to a path of its own at each start, so that the recorder tells
// the posts of a dead one from those of the next. The third is the visitor.
func (y *system) bridge(name string) error {
	audit, err := y.wire(name+"->auditor", "bridge->auditor", y.rec.addr)
	if err != nil {
		return err
	}
	notify, err := y.wire(name+"->notifier", "bridge->notifier", y.notices.addr)
	if err != nil {
		return err
	}
	addr := freePort()
	y.ops[name] = freePort()
	p := &process{name: name, path: filepath.Join(y.Bin, "bridge"), dir: y.Dir}
	p.env = func(start int) ([]string, error) {
		config := y.path(name + ".yaml")
		text := fmt.Sprintf(`topic: %s
subscriptions:
  - name: audit
    group: %s
    sink: http://%s/%s.%d
    exhausted: block
    timeout: 3s
    retry: {initial: 50ms, max: 1s}
  - name: notifications
    group: %s
    sink: http://%s/%s.%d
    types: [%s]
    timeout: 3s
    retry: {initial: 50ms, max: 1s}
`, topic, auditGroup, audit.addr, name, start, noticeGroup, notify.addr, name, start, strings.Join(noticeTypes, ", "))
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		env := y.environment(name, addr, "BRIDGE_CONFIG="+config)
		if name == "bridge-1" { // one member is static, the other is not
			env = append(env, "KAFKA_GROUP_INSTANCE_ID="+name)
		}
		return env, nil
	}
	y.bridges = append(y.bridges, p)
	if name == "bridge-3" {
		y.visitor = p
		return nil
	}
	y.targets = append(y.targets, p)
	return p.Up()
}

// await returns when the API and a bridge can take work.
func (y *system) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, name := range []string{"taskapi", "bridge-1", "auditor"} {
		for !answers(ctx, "http://"+y.ops[name]+"/readyz") {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not ready: see %s", name, y.path(name+".log"))
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	return nil
}

func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// play is the run: load and faults, drain, dumps.
func (y *system) play(ctx context.Context) error {
	var err error
	if y.watch, err = newWatch(y); err != nil {
		return err
	}
	began := time.Now()
	loading, stopLoad := context.WithTimeout(ctx, y.Duration)
	defer stopLoad()
	watching, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	var clients, watchers group
	for i := range y.Workers {
		f, err := y.file(fmt.Sprintf("history-%02d.jsonl", i))
		if err != nil {
			return err
		}
		w := &worker{load: y.load, rand: rand.New(rand.NewPCG(y.Seed, uint64(i)+100)), file: f, gap: time.Duration(float64(time.Second) / y.Rate)}
		clients.start(func() error { return w.run(loading) })
	}
	watchers.start(func() error { return y.watch.run(watching) })
	watchers.start(func() error { y.progress(watching, began); return nil })
	if y.Strikes != nil {
		y.sweep(loading)
		stopLoad()
	}
	breaking, stopFaults := context.WithTimeout(loading, y.Duration-min(5*time.Second, y.Duration/5))
	defer stopFaults()
	y.breakThings(breaking)
	err = errors.Join(y.heal(), clients.wait())
	y.say("load ended, draining")
	stuck := y.drain(ctx)
	stopWatch()
	err = errors.Join(err, watchers.wait())
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return errors.Join(err, y.finish(ctx, stuck, time.Since(began)))
}

// group is goroutines that may fail.
type group struct {
	sync.WaitGroup
	mu  sync.Mutex
	err error
}

func (g *group) start(do func() error) {
	g.Go(func() {
		err := do()
		g.mu.Lock()
		defer g.mu.Unlock()
		g.err = errors.Join(g.err, err)
	})
}

func (g *group) wait() error { g.Wait(); return g.err }

func (y *system) say(format string, args ...any) {
	y.saying.Lock()
	defer y.saying.Unlock()
	fmt.Fprintf(y.out, "%6.1fs "+format+"\n", append([]any{time.Since(y.clock.began).Seconds()}, args...)...)
}

func (y *system) progress(ctx context.Context, began time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(5 * time.Second):
		}
		y.rec.mu.Lock()
		delivered := len(y.rec.acks)
		y.rec.mu.Unlock()
		y.mu.Lock()
		faults := len(y.faults)
		y.mu.Unlock()
		acks := y.load.acks.Load()
		y.say("asked %d acknowledged %d (%.0f/s) in flight %d delivered %d lag %d faults %d", y.load.asked.Load(), acks,
			float64(acks)/time.Since(began).Seconds(), y.load.inFlight.Load(), delivered, y.watch.lag(), faults)
	}
}

// drain waits until nothing is on its way; what it still waits for is returned.
func (y *system) drain(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, y.Drain)
	defer cancel()
	calm := 0
	for {
		waiting := y.watch.waiting(ctx)
		if waiting == "" {
			calm++
		} else {
			calm = 0
		}
		if calm == 4 {
			return ""
		}
		select {
		case <-ctx.Done():
			return waiting + " "
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// finish stops the services, dumps what they left, and writes run.json last: a
// folder without it is no run.
func (y *system) finish(ctx context.Context, stuck string, took time.Duration) error {
	var errs []error
	for i := len(y.targets) - 1; i > 0; i-- { // the broker is asked for its records below
		errs = append(errs, y.targets[i].Down(syscall.SIGTERM))
	}
	errs = append(errs, y.dumpTopics(ctx), y.dumpDatabase(ctx), y.dumpFaults(), y.dumpLastCommits(ctx))
	build, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		build = []byte("unknown")
	}
	r := check.Run{Seed: y.Seed, Build: strings.TrimSpace(string(build)), Topic: topic, Group: auditGroup, Notify: noticeTypes, Notifier: noticeGroup, Seconds: took.Seconds(),
		Topology: fmt.Sprintf("taskapi, bridge x2 and a visitor, notifier, auditor, %s kafka, %d partitions, %d clients", y.Kafka, partitions, y.Workers),
		Drained:  stuck == "", Stuck: strings.TrimSpace(stuck), Left: y.left(), Counts: y.counts(), Limits: y.watch.limits, Need: y.need()}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, y.panics())
	return errors.Join(append(errs, os.WriteFile(y.path("run.json"), b, 0o600))...)
}

// panics looks for programs that died of themselves: the restart would hide it.
func (y *system) panics() error {
	var errs []error
	for _, p := range y.processes() {
		log, err := os.ReadFile(y.path(p.name + ".log"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, sign := range []string{"\npanic: ", "\nfatal error: ", "WARNING: DATA RACE"} {
			if bytes.Contains(log, []byte(sign)) {
				errs = append(errs, fmt.Errorf("%s: %q in %s", p.name, strings.TrimSpace(sign), y.path(p.name+".log")))
			}
		}
	}
	return errors.Join(errs...)
}

func (y *system) counts() map[string]int {
	torn, _ := filepath.Glob(filepath.Join(y.logDir, "audit.log.torn-*"))
	c := map[string]int{"rebalances": y.rebalances(), "torn-tails": len(torn)}
	for _, p := range y.processes() {
		p.mu.Lock()
		c["starts"] += p.starts
		c["unasked-ends"] += p.faults
		p.mu.Unlock()
	}
	return c
}

// rebalances are the generations that a bridge joined after the first of each
// group, as their logs have it: a bridge that dies takes its metrics along.
func (y *system) rebalances() int {
	type generation struct {
		Msg, Group string
		Generation int
	}
	joined, groups := map[generation]bool{}, map[string]bool{}
	for _, b := range y.bridges {
		log, err := os.ReadFile(y.path(b.name + ".log"))
		if err != nil {
			continue // it never ran
		}
		for line := range bytes.Lines(log) {
			var g generation
			if json.Unmarshal(line, &g) == nil && g.Msg == "consumer group joined" {
				joined[g], groups[g.Group] = true, true
			}
		}
	}
	return len(joined) - len(groups)
}

// need is what this run must have done to mean anything.
func (y *system) need() map[string]int {
	if y.Need != nil {
		return y.Need
	}
	n := map[string]int{"acks": y.Acks, "snapshots": 1, "commits": 1, "2xx:create": 1, "2xx:update": 1, "2xx:complete": 1,
		"2xx:shared-update": 1, "2xx:shared-complete": 1, "4xx:refused-body": 1, "4xx:refused-etag": 1, "4xx:refused-key": 1}
	if y.Acks == 0 {
		n["acks"] = int(2 * y.Duration.Seconds())
	}
	plan, _ := y.plan()
	if y.Duration < time.Minute || len(plan) == 0 {
		return n
	}
	n["rate-before"] = max(1, int(y.Rate*float64(y.Workers))/20)
	n["info"], n["redeliveries"], n["rebalances"], n["notices"] = 1, 1, 1, 1
	for _, kind := range plan {
		n["effective:"+kind], n["recovered:"+kind] = 1, 1
	}
	if slices.Contains(plan, "sink") && strings.Contains(y.Answers, "cut-after") {
		n["dedup-hits"] = 1
	}
	if slices.Contains(plan, "disk") {
		n["refused-full"] = 1
	}
	if !slices.ContainsFunc(illnesses, func(kind string) bool { return !slices.Contains(plan, kind) }) {
		for _, pair := range y.pairs() {
			n["pair:"+pair] = 1
		}
	}
	return n
}

// left says what could not be broken here.
func (y *system) left() []string {
	var all []string
	_, left := y.plan()
	for _, kind := range slices.Sorted(maps.Keys(left)) {
		all = append(all, kind+": "+left[kind])
	}
	return all
}

// processes are all programs of this tree that run.
func (y *system) processes() []*process {
	var all []*process
	for _, t := range y.targets {
		if p, ok := t.(*process); ok {
			all = append(all, p)
		}
	}
	return append(all, y.visitor)
}

// close stops whatever still runs.
func (y *system) close() error {
	var errs []error
	for i := len(y.targets) - 1; i >= 0; i-- {
		errs = append(errs, y.targets[i].Down(syscall.SIGKILL))
	}
	if y.visitor != nil {
		errs = append(errs, y.visitor.Down(syscall.SIGKILL))
	}
	for _, w := range y.wires {
		errs = append(errs, w.close())
	}
	for _, r := range []*recorder{y.rec, y.notices} {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	if y.watch != nil {
		y.watch.transport.CloseIdleConnections()
	}
	if y.disk != nil {
		errs = append(errs, y.disk.keep(y.Dir))
	}
	for _, f := range y.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
}
