package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/freeport"
)

const (
	topic       = "task-events"
	deadLetters = "task-events-dlq"
	auditGroup  = "audit-service"
	noticeGroup = "notification-service"
)

var noticeTypes = []string{"task.created", "task.completed"} // what the notifier is subscribed to

// system is everything that runs.
type system struct {
	settings
	out         io.Writer
	rand        *rand.Rand
	clock       clock
	load        *load
	rec         *recorder                    // in front of the auditor
	notices     *recorder                    // in front of the notifier
	targets     []target                     // in the order of their start
	extraBridge *program                     // joins and leaves; not among the targets
	spares      map[string]*program          // take the place of others, by role; not among the targets
	routes      map[string]func(addr string) // send what was for a process elsewhere, by its name
	bridges     []*program
	configs     []*bridgeFile // of the bridges, in their order
	proxies     []*proxy
	disk        *disk  // the auditor's; nil without one
	noDisk      string // why there is none
	logDir      string // the audit log's folder

	postgres  *postgres         // nil with SQLite
	registry  *schemaRegistry   // nil with JSON
	inAvro    int               // records of the topic, when it is dumped
	quorum    *quorum           // nil with one broker; else the first target
	brokers   []string          // as this program reaches them: without a proxy or a fault
	bootstrap map[string]string // address of the proxy to Kafka, by process
	addrs     map[string]string // public address, by process
	ops       map[string]string // operator address, by process
	admin     map[string]string // of the admin API, by bridge
	pauses    pauses
	watch     *watch

	forgedRefused atomic.Int64 // posts of the intruder that were refused as they should be
	letters       atomic.Int64 // dead letters that were redriven
	redriven      atomic.Bool  // none is left

	// powerLoss: a failpoint may drop what the auditor has written and not
	// synced, so an image of its log is no proof now.
	powerLoss atomic.Bool

	// Owned by injectFaults.
	turns  map[string]int  // of each kind of proxy fault
	struck map[string]int  // faults of a kind at a process, by both names
	hit    map[target]bool // in this round

	printing sync.Mutex // guards out

	mu     sync.Mutex // guards what follows
	files  map[string]*file
	faults []check.Fault
}

// open builds and starts everything. When it fails it stops what it started.
func open(ctx context.Context, s settings, stdout io.Writer) (*system, error) {
	y := &system{settings: s, out: stdout, rand: rand.New(rand.NewPCG(s.Seed, 1)), clock: clock{time.Now()}, files: map[string]*file{},
		spares: map[string]*program{}, routes: map[string]func(string){}, struck: map[string]int{},
		addrs: map[string]string{}, ops: map[string]string{}, admin: map[string]string{}, bootstrap: map[string]string{}, turns: map[string]int{}}
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

// close stops whatever still runs.
func (y *system) close() error {
	var errs []error
	if y.postgres != nil {
		errs = append(errs, y.postgres.close(y.path("postgres.log")))
	}
	for i := len(y.targets) - 1; i >= 0; i-- {
		errs = append(errs, y.targets[i].Down(syscall.SIGKILL))
	}
	for _, p := range y.spare() {
		errs = append(errs, p.Down(syscall.SIGKILL))
	}
	for _, p := range y.proxies {
		errs = append(errs, p.close())
	}
	for _, r := range []*recorder{y.rec, y.notices} {
		if r != nil {
			errs = append(errs, r.close())
		}
	}
	if y.registry != nil {
		errs = append(errs, y.registry.close())
	}
	if y.watch != nil {
		y.watch.transport.Close()
	}
	if y.disk != nil {
		errs = append(errs, y.disk.keep(y.Dir))
	}
	for _, f := range y.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(errs...)
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

// proxy starts a proxy that close ends.
func (y *system) proxy(name, pair, to string) (*proxy, error) {
	p, err := newProxy(name, pair, freeport.Addr(), to)
	if err == nil {
		y.proxies = append(y.proxies, p)
	}
	return p, err
}

// programs are all programs of this tree that run.
func (y *system) programs() []*program {
	var all []*program
	for _, t := range y.targets {
		if p, ok := t.(*program); ok {
			all = append(all, p)
		}
	}
	return append(all, y.spare()...)
}

// spare are the programs that are down unless a fault needs them.
func (y *system) spare() []*program {
	all := slices.Collect(maps.Values(y.spares))
	if y.extraBridge != nil {
		all = append(all, y.extraBridge)
	}
	return all
}

func (y *system) program(name string) *program {
	for _, p := range y.programs() {
		if p.name == name {
			return p
		}
	}
	panic("no program is called " + name)
}

// printf prints a line with the time since the start.
func (y *system) printf(format string, args ...any) {
	y.printing.Lock()
	defer y.printing.Unlock()
	fmt.Fprintf(y.out, "%6.1fs "+format+"\n", append([]any{time.Since(y.clock.began).Seconds()}, args...)...)
}
