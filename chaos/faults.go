package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/retry"
)

// fault is one that has been injected: into what, for how long, and how it is
// healed.
type fault struct {
	target string
	pair   string // client and server, for a fault of their connection
	last   time.Duration
	heal   func() error
}

// kinds inject each kind of fault. The seed decides the order of the calls. A
// heal may end early when the context does.
var kinds = map[string]func(y *system, ctx context.Context) (fault, error){
	"kill": func(y *system, _ context.Context) (fault, error) {
		t := y.pick("kill")
		return fault{target: t.Name(), last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGKILL)
	},
	"term": func(y *system, _ context.Context) (fault, error) {
		t := y.pick("term")
		return fault{target: t.Name(), last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGTERM)
	},
	// Longer than the session timeout of 10 s: a bridge continues as a zombie.
	"stop": func(y *system, _ context.Context) (fault, error) {
		t := y.pick("stop")
		return fault{target: t.Name(), last: y.between(10500, 13000), heal: resume(t)}, t.Signal(syscall.SIGSTOP)
	},
	"pair":     injectPair,
	"all":      injectAll,
	"loop":     injectLoop,
	"member":   injectMember,
	"intruder": injectIntruder,
	"redrive":  injectRedrive,
	"reload":   injectReload,
	"pause":    injectPause,
	"sink":     func(y *system, _ context.Context) (fault, error) { return y.injectAnswers("auditor", y.rec) },
	"notices":  func(y *system, _ context.Context) (fault, error) { return y.injectAnswers("notifier", y.notices) },
	"database": injectDatabase,
	"registry": injectRegistry,
	"schemas":  injectSchemas,
	"replace":  injectReplace,
	"disk": func(y *system, ctx context.Context) (fault, error) {
		refused := y.rec.refused.Load()
		return fault{target: "auditor's disk full", last: y.between(2000, 6000), heal: func() error {
			for range 100 { // until the auditor has noticed
				if y.rec.refused.Load() > refused || retry.Pause(ctx, 100*time.Millisecond) != nil {
					break
				}
			}
			return y.disk.free()
		}}, y.disk.fill()
	},
	"broker": func(y *system, _ context.Context) (fault, error) {
		t := y.targets[0]
		switch y.rand.IntN(3) {
		case 0:
			return fault{target: "broker kill", last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGKILL)
		case 1:
			return fault{target: "broker term", last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGTERM)
		}
		return fault{target: "broker stop", last: y.between(2000, 6000), heal: resume(t)}, t.Signal(syscall.SIGSTOP)
	},
	"leader":      onQuorum(injectLeader),
	"coordinator": onQuorum(injectCoordinator),
	"hang":        onQuorum(injectHang),
	"majority":    onQuorum(injectMajority),
	"rolling":     onQuorum(injectRolling),
	"update":      injectUpdate,
	latency:       onProxy(latency),
	bandwidth:     onProxy(bandwidth),
	slowClose:     onProxy(slowClose),
	blackHole:     onProxy(blackHole),
	reset:         onProxy(reset),
	cut:           onProxy(cut),
}

// allFaults are those of a system with one broker and without a database server or a registry.
var allFaults = strings.Join(slices.DeleteFunc(slices.Sorted(maps.Keys(kinds)), func(k string) bool {
	return k == "database" || k == "registry" || k == "schemas" || k == "replace" || slices.Contains(quorumKinds, k)
}), ",")

var sinkFaults = []string{"disk", "sink"}

func resume(t target) func() error { return func() error { return t.Signal(syscall.SIGCONT) } }

// pick returns a process other than the broker and the extra bridge. It prefers
// one without a fault in this round: a process that is down cannot be stopped.
func (y *system) pick(kind string) target {
	free := slices.DeleteFunc(slices.Clone(y.targets[1:]), func(t target) bool { return y.hit[t] })
	if len(free) == 0 {
		free = slices.Clone(y.targets[1:])
	}
	if y.Scale {
		free = y.leastStruck(kind, free)
	}
	t := free[y.rand.IntN(len(free))]
	y.hit[t] = true
	y.struck[kind+" "+t.Name()]++
	return t
}

func (y *system) between(low, high int) time.Duration {
	return time.Duration(low+y.rand.IntN(high-low)) * time.Millisecond
}

// injectPair kills or stops two processes at once.
func injectPair(y *system, _ context.Context) (fault, error) {
	a, b := y.pick("pair"), y.pick("pair")
	names := a.Name() + " and " + b.Name()
	if y.rand.IntN(2) == 0 {
		return fault{target: "kill " + names, last: y.between(100, 3000), heal: func() error { return errors.Join(a.Up(), b.Up()) }},
			errors.Join(a.Down(syscall.SIGKILL), b.Down(syscall.SIGKILL))
	}
	return fault{target: "stop " + names, last: y.between(10500, 13000), heal: func() error { return errors.Join(resume(a)(), resume(b)()) }},
		errors.Join(a.Signal(syscall.SIGSTOP), b.Signal(syscall.SIGSTOP))
}

// injectAll kills every process but the broker.
func injectAll(y *system, _ context.Context) (fault, error) {
	var errs []error
	for _, t := range y.targets[1:] {
		y.hit[t] = true
		errs = append(errs, t.Down(syscall.SIGKILL))
	}
	return fault{target: "all at once", last: y.between(100, 3000), heal: func() error {
		var errs []error
		for _, t := range y.targets[1:] {
			errs = append(errs, t.Up())
		}
		return errors.Join(errs...)
	}}, errors.Join(errs...)
}

// injectLoop kills a process ten times, sometimes before it is ready.
func injectLoop(y *system, ctx context.Context) (fault, error) {
	t := y.pick("loop")
	gaps := make([]time.Duration, 9)
	for i := range gaps {
		gaps[i] = y.between(50, 1500)
	}
	return fault{target: t.Name() + " ten times", heal: func() error {
		for _, gap := range gaps {
			if err := t.Up(); err != nil || retry.Pause(ctx, gap) != nil {
				return err
			}
			if err := t.Down(syscall.SIGKILL); err != nil {
				return err
			}
		}
		return t.Up()
	}}, t.Down(syscall.SIGKILL)
}

// injectMember has one more bridge join the groups and leave them again, by a
// drain or by SIGKILL.
func injectMember(y *system, _ context.Context) (fault, error) {
	sig, how := syscall.SIGTERM, "leaves"
	if y.rand.IntN(3) == 0 {
		sig, how = syscall.SIGKILL, "is killed"
	}
	return fault{target: y.extraBridge.name + " joins and " + how, last: y.between(2000, 8000),
		heal: func() error { return y.extraBridge.Down(sig) }}, y.extraBridge.Up()
}

func (y *system) injectAnswers(name string, r *recorder) (fault, error) {
	modes := strings.Split(y.Answers, ",")
	mode := modes[(r.turn+y.rand.IntN(2))%len(modes)]
	r.turn += 2
	r.mode.Store(&mode)
	return fault{target: name + " answers " + mode, last: y.between(1000, 4000), heal: func() error { r.mode.Store(nil); return nil }}, nil
}

// onProxy injects a fault into a proxy. Each kind takes the pairs in turn and
// begins with another one, so that a short run reaches all of them.
func onProxy(kind string) func(*system, context.Context) (fault, error) {
	return func(y *system, _ context.Context) (fault, error) {
		pairs := y.pairs()
		pair := pairs[(slices.Index(proxyFaults, kind)+y.turns[kind]+int(y.Seed%60))%len(pairs)]
		y.turns[kind]++
		of := slices.DeleteFunc(slices.Clone(y.proxies), func(p *proxy) bool { return p.pair != pair })
		used := slices.DeleteFunc(slices.Clone(of), (*proxy).idle)
		if len(used) == 0 {
			used = of[:min(2, len(of))] // not the extra bridge's
		}
		p := used[y.rand.IntN(len(used))]
		last := y.between(1000, 5000)
		if kind == blackHole && y.rand.IntN(3) == 0 {
			last = y.between(10500, 13000) // longer than the session timeout
		}
		p.inject(y.proxyFault(kind))
		return fault{target: p.name, pair: pair, last: last, heal: func() error { p.heal(); return nil }}, nil
	}
}

func (y *system) proxyFault(kind string) proxyFault {
	f := proxyFault{kind: kind}
	switch kind {
	case latency:
		f.delay = y.between(20, 800)
	case bandwidth:
		f.rate = 2000 + y.rand.IntN(50_000)
	case slowClose:
		f.delay = y.between(500, 5000)
	case blackHole:
		way := y.rand.IntN(3)
		f.up, f.down = way != 1, way != 2
	case reset:
		f.delay = y.between(50, 1500)
	case cut:
		f.bytes = 1 + y.rand.IntN(2000)
	}
	return f
}

// pairs are the pairs of all proxies, each once.
func (y *system) pairs() []string {
	var names []string
	for _, p := range y.proxies {
		if !slices.Contains(names, p.pair) {
			names = append(names, p.pair)
		}
	}
	return names
}

// plan returns the kinds that this machine can inject, and why not the others.
func (y *system) plan() (kinds []string, left map[string]string) {
	left = map[string]string{}
	for kind := range strings.SplitSeq(y.Faults, ",") {
		switch {
		case kind == "":
		case kind == "disk" && y.disk == nil:
			left[kind] = y.noDisk
		default:
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	return kinds, left
}

// injectFaults injects a random subset, heals it and lets the system recover,
// again and again until the context ends. Each kind has its turn before chance
// decides; the less time there is, the more of them at once.
func (y *system) injectFaults(ctx context.Context) {
	all, left := y.plan()
	for kind, why := range left {
		y.printf("not injected: %s: %s", kind, why)
	}
	// Faults of a sink need deliveries, and a group that has lost members
	// delivers nothing until their sessions time out.
	first := slices.DeleteFunc(slices.Clone(y.First), func(k string) bool { return !slices.Contains(all, k) })
	turn := slices.DeleteFunc(slices.Clone(all), func(k string) bool { return slices.Contains(first, k) })
	y.rand.Shuffle(len(turn), func(i, k int) { turn[i], turn[k] = turn[k], turn[i] })
	deadline, _ := ctx.Deadline()
	round := 15 * time.Second // about the longest
	pause := [2]int{1500, 4000}
	if y.Once {
		pause = [2]int{500, 1000}
	}
	for retry.Pause(ctx, y.between(pause[0], pause[1])) == nil && len(all) > 0 && time.Until(deadline) > 3*time.Second {
		if len(first) > 0 {
			y.injectRound(ctx, first[:1])
			first = first[1:]
			continue
		}
		if y.Once {
			return
		}
		n := min(len(turn), 1+len(turn)*int(round)/int(max(1, time.Until(deadline))))
		if time.Until(deadline) < 2*round {
			n = len(turn)
		}
		chosen := slices.Clone(turn[:n])
		turn = turn[n:]
		for _, k := range all {
			if y.rand.IntN(y.oddsOf(k, max(3, len(all)))) == 0 && !slices.Contains(chosen, k) {
				chosen = append(chosen, k)
			}
		}
		began := time.Now()
		y.injectRound(ctx, append(chosen, y.again(all)...))
		round = max(round, time.Since(began))
	}
	<-ctx.Done()
}

func (y *system) injectRound(ctx context.Context, chosen []string) {
	var round sync.WaitGroup
	y.hit = map[target]bool{}
	for _, kind := range chosen { // one after the other, so that the seed decides all of it
		record := check.Fault{Kind: kind, InFlight: y.awaitTraffic(ctx), At: y.clock.now()}
		f, err := kinds[kind](y, ctx)
		record.Target, record.Pair = f.target, f.pair
		y.printf("inject %s: %s for %s, %d in flight", kind, f.target, f.last.Round(100*time.Millisecond), record.InFlight)
		if err != nil {
			y.printf("inject %s: %v", kind, err)
			record.Error = err.Error()
		}
		if f.heal == nil {
			y.record(record)
			continue
		}
		round.Go(func() {
			_ = retry.Pause(ctx, f.last) // the end of the faults heals at once
			if err := f.heal(); err != nil {
				y.printf("heal %s: %v", f.target, err)
				record.Error += "heal: " + err.Error()
			}
			record.Healed = y.clock.now()
			y.record(record)
		})
	}
	round.Wait()
}

func (y *system) record(f check.Fault) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.faults = append(y.faults, f)
}

// awaitTraffic waits up to two seconds for something to be in flight, and
// returns how much is: a fault in an idle system proves nothing.
func (y *system) awaitTraffic(ctx context.Context) int {
	for range 2000 {
		if n := int(y.load.inFlight.Load() + y.rec.inFlight.Load()); n > 0 || retry.Pause(ctx, time.Millisecond) != nil {
			return n
		}
	}
	return 0
}

// heal ends every fault, also one that a later fault has replaced.
func (y *system) heal() error {
	var errs []error
	for _, p := range y.proxies {
		p.heal()
	}
	y.rec.mode.Store(nil)
	y.notices.mode.Store(nil)
	if y.registry != nil {
		errs = append(errs, y.registry.heal())
	}
	if y.disk != nil {
		errs = append(errs, y.disk.free())
	}
	for _, t := range y.targets {
		errs = append(errs, t.Signal(syscall.SIGCONT), t.Up())
	}
	for name, route := range y.routes {
		route(y.addrs[name])
	}
	for _, p := range y.spare() {
		errs = append(errs, p.Down(syscall.SIGTERM))
	}
	return errors.Join(append(errs, y.resumePaused())...)
}

func (y *system) dumpFaults() error {
	f, err := y.file("faults.jsonl")
	if err != nil {
		return err
	}
	for _, record := range y.faults {
		record.Recovered = y.rec.ackedAfter(record.Healed)
		err = errors.Join(err, f.write(record))
	}
	return err
}
