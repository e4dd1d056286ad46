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
)

// A wound is a fault that has been given: what it hit, for how long it lasts and
// what heals it.
type wound struct {
	target string
	pair   string // the two whose connection it is
	last   time.Duration
	heal   func() error
}

// kinds are what can be broken. The order of the calls is the seed's; what a
// kind leaves to its heal may end early when the context does.
var kinds = map[string]func(y *system, ctx context.Context) (wound, error){
	"kill": func(y *system, _ context.Context) (wound, error) {
		t := y.pick()
		return wound{target: t.Name(), last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGKILL)
	},
	"term": func(y *system, _ context.Context) (wound, error) {
		t := y.pick()
		return wound{target: t.Name(), last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGTERM)
	},
	// Longer than the session time-out of 10 s: a bridge wakes up as a zombie.
	"stop": func(y *system, _ context.Context) (wound, error) {
		t := y.pick()
		return wound{target: t.Name(), last: y.between(10500, 13000), heal: goOn(t)}, t.Signal(syscall.SIGSTOP)
	},
	"pair":    breakTwo,
	"all":     breakAll,
	"loop":    startLoop,
	"member":  visit,
	"sink":    func(y *system, _ context.Context) (wound, error) { return y.misanswer("auditor", y.rec) },
	"notices": func(y *system, _ context.Context) (wound, error) { return y.misanswer("notifier", y.notices) },
	"disk": func(y *system, ctx context.Context) (wound, error) {
		refused := y.rec.refused.Load()
		return wound{target: "auditor's disk full", last: y.between(2000, 6000), heal: func() error {
			for range 100 { // until it was noticed
				if y.rec.refused.Load() > refused || !pause(ctx, 100*time.Millisecond) {
					break
				}
			}
			return y.disk.free()
		}}, y.disk.fill()
	},
	"broker": func(y *system, _ context.Context) (wound, error) {
		t := y.targets[0]
		switch y.rand.IntN(3) {
		case 0:
			return wound{target: "broker kill", last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGKILL)
		case 1:
			return wound{target: "broker term", last: y.between(100, 3000), heal: t.Up}, t.Down(syscall.SIGTERM)
		}
		return wound{target: "broker stop", last: y.between(2000, 6000), heal: goOn(t)}, t.Signal(syscall.SIGSTOP)
	},
	latency:   onAWire(latency),
	bandwidth: onAWire(bandwidth),
	slowClose: onAWire(slowClose),
	blackHole: onAWire(blackHole),
	reset:     onAWire(reset),
	cut:       onAWire(cut),
}

var allFaults = strings.Join(slices.Sorted(maps.Keys(kinds)), ",")

var sinkFaults = []string{"disk", "sink"}

func goOn(t target) func() error { return func() error { return t.Signal(syscall.SIGCONT) } }

// pick is a process other than the broker and the visitor, if it can be one that
// nothing else has broken: a process that is down cannot be stopped.
func (y *system) pick() target {
	free := slices.DeleteFunc(slices.Clone(y.targets[1:]), func(t target) bool { return y.hit[t] })
	if len(free) == 0 {
		free = y.targets[1:]
	}
	t := free[y.rand.IntN(len(free))]
	y.hit[t] = true
	return t
}

func (y *system) between(low, high int) time.Duration {
	return time.Duration(low+y.rand.IntN(high-low)) * time.Millisecond
}

// breakTwo kills or stops two processes at once.
func breakTwo(y *system, _ context.Context) (wound, error) {
	a, b := y.pick(), y.pick()
	names := a.Name() + " and " + b.Name()
	if y.rand.IntN(2) == 0 {
		return wound{target: "kill " + names, last: y.between(100, 3000), heal: func() error { return errors.Join(a.Up(), b.Up()) }},
			errors.Join(a.Down(syscall.SIGKILL), b.Down(syscall.SIGKILL))
	}
	return wound{target: "stop " + names, last: y.between(10500, 13000), heal: func() error { return errors.Join(goOn(a)(), goOn(b)()) }},
		errors.Join(a.Signal(syscall.SIGSTOP), b.Signal(syscall.SIGSTOP))
}

// breakAll kills every process but the broker.
func breakAll(y *system, _ context.Context) (wound, error) {
	var errs []error
	for _, t := range y.targets[1:] {
		y.hit[t] = true
		errs = append(errs, t.Down(syscall.SIGKILL))
	}
	return wound{target: "all at once", last: y.between(100, 3000), heal: func() error {
		var errs []error
		for _, t := range y.targets[1:] {
			errs = append(errs, t.Up())
		}
		return errors.Join(errs...)
	}}, errors.Join(errs...)
}

// startLoop kills a process ten times, at times before it is ready.
func startLoop(y *system, ctx context.Context) (wound, error) {
	t := y.pick()
	gaps := make([]time.Duration, 9)
	for i := range gaps {
		gaps[i] = y.between(50, 1500)
	}
	return wound{target: t.Name() + " ten times", heal: func() error {
		for _, gap := range gaps {
			if err := t.Up(); err != nil || !pause(ctx, gap) {
				return err
			}
			if err := t.Down(syscall.SIGKILL); err != nil {
				return err
			}
		}
		return t.Up()
	}}, t.Down(syscall.SIGKILL)
}

// visit has one more bridge join the groups and leave them again, with or
// without a word.
func visit(y *system, _ context.Context) (wound, error) {
	sig, how := syscall.SIGTERM, "leaves"
	if y.rand.IntN(3) == 0 {
		sig, how = syscall.SIGKILL, "vanishes"
	}
	return wound{target: y.visitor.name + " joins and " + how, last: y.between(2000, 8000),
		heal: func() error { return y.visitor.Down(sig) }}, y.visitor.Up()
}

func (y *system) misanswer(name string, r *recorder) (wound, error) {
	modes := strings.Split(y.Answers, ",")
	mode := modes[(r.turn+y.rand.IntN(2))%len(modes)]
	r.turn += 2
	r.mode.Store(&mode)
	return wound{target: name + " answers " + mode, last: y.between(1000, 4000), heal: func() error { r.mode.Store(nil); return nil }}, nil
}

// onAWire makes a wire bad. Each illness visits the pairs in turn, and each
// begins with another one, so that a short run reaches all of them.
func onAWire(kind string) func(*system, context.Context) (wound, error) {
	return func(y *system, _ context.Context) (wound, error) {
		pairs := y.pairs()
		pair := pairs[(slices.Index(illnesses, kind)+y.turns[kind]+int(y.Seed%60))%len(pairs)]
		y.turns[kind]++
		of := slices.DeleteFunc(slices.Clone(y.wires), func(w *wire) bool { return w.pair != pair })
		used := slices.DeleteFunc(slices.Clone(of), (*wire).idle)
		if len(used) == 0 {
			used = of[:min(2, len(of))] // not the visitor's
		}
		w := used[y.rand.IntN(len(used))]
		last := y.between(1000, 5000)
		if kind == blackHole && y.rand.IntN(3) == 0 {
			last = y.between(10500, 13000) // longer than the session time-out
		}
		w.sicken(y.illness(kind))
		return wound{target: w.name, pair: pair, last: last, heal: func() error { w.heal(); return nil }}, nil
	}
}

func (y *system) illness(kind string) illness {
	ill := illness{kind: kind}
	switch kind {
	case latency:
		ill.delay = y.between(20, 800)
	case bandwidth:
		ill.rate = 2000 + y.rand.IntN(50_000)
	case slowClose:
		ill.delay = y.between(500, 5000)
	case blackHole:
		way := y.rand.IntN(3)
		ill.up, ill.down = way != 1, way != 2
	case reset:
		ill.delay = y.between(50, 1500)
	case cut:
		ill.bytes = 1 + y.rand.IntN(2000)
	}
	return ill
}

// pairs are the names of all wires, each once.
func (y *system) pairs() []string {
	var names []string
	for _, w := range y.wires {
		if !slices.Contains(names, w.pair) {
			names = append(names, w.pair)
		}
	}
	return names
}

// plan is the kinds that this machine can break, and why not the others.
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

// breakThings breaks a random subset, heals it and lets the system recover, over
// and over until the context ends. Each kind has its turn before chance decides;
// the less time there is, the more of them at once.
func (y *system) breakThings(ctx context.Context) {
	all, left := y.plan()
	for kind, why := range left {
		y.say("not injected: %s: %s", kind, why)
	}
	// A sink shows nothing while nothing is delivered, and a group that has lost
	// members delivers nothing for as long as their time-outs.
	first := slices.DeleteFunc(slices.Clone(y.First), func(k string) bool { return !slices.Contains(all, k) })
	turn := slices.DeleteFunc(slices.Clone(all), func(k string) bool { return slices.Contains(first, k) })
	y.rand.Shuffle(len(turn), func(i, k int) { turn[i], turn[k] = turn[k], turn[i] })
	deadline, _ := ctx.Deadline()
	const round = 15 * time.Second // what one takes at most, more or less
	for pause(ctx, y.between(1500, 4000)) && len(all) > 0 && time.Until(deadline) > 3*time.Second {
		if len(first) > 0 {
			y.breakOnce(ctx, first[:1])
			first = first[1:]
			continue
		}
		n := min(len(turn), 1+len(turn)*int(round)/int(time.Until(deadline)))
		if time.Until(deadline) < 2*round {
			n = len(turn)
		}
		chosen := slices.Clone(turn[:n])
		turn = turn[n:]
		for _, k := range all {
			if y.rand.IntN(max(3, len(all))) == 0 && !slices.Contains(chosen, k) {
				chosen = append(chosen, k)
			}
		}
		y.breakOnce(ctx, chosen)
	}
	<-ctx.Done()
}

func (y *system) breakOnce(ctx context.Context, chosen []string) {
	var round sync.WaitGroup
	y.hit = map[target]bool{}
	for _, kind := range chosen { // broken one after the other, so that the seed decides all of it
		f := check.Fault{Kind: kind, InFlight: y.bite(ctx), At: y.clock.now()}
		w, err := kinds[kind](y, ctx)
		f.Target, f.Pair = w.target, w.pair
		y.say("break %s: %s for %s, %d in flight", kind, w.target, w.last.Round(100*time.Millisecond), f.InFlight)
		if err != nil {
			y.say("break %s: %v", kind, err)
			f.Error = err.Error()
		}
		if w.heal == nil {
			y.note(f)
			continue
		}
		round.Go(func() {
			pause(ctx, w.last)
			if err := w.heal(); err != nil {
				y.say("heal %s: %v", w.target, err)
				f.Error += "heal: " + err.Error()
			}
			f.Healed = y.clock.now()
			y.note(f)
		})
	}
	round.Wait()
}

func (y *system) note(f check.Fault) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.faults = append(y.faults, f)
}

// bite waits a moment for something to be in flight, and says how much is: a
// fault of an idle system shows nothing.
func (y *system) bite(ctx context.Context) int {
	for range 2000 {
		if n := int(y.load.inFlight.Load() + y.rec.inHand.Load()); n > 0 || !pause(ctx, time.Millisecond) {
			return n
		}
	}
	return 0
}

// heal ends every fault, also one that a later one has covered.
func (y *system) heal() error {
	var errs []error
	for _, w := range y.wires {
		w.heal()
	}
	y.rec.mode.Store(nil)
	y.notices.mode.Store(nil)
	if y.disk != nil {
		errs = append(errs, y.disk.free())
	}
	for _, t := range y.targets {
		errs = append(errs, t.Signal(syscall.SIGCONT), t.Up())
	}
	return errors.Join(append(errs, y.visitor.Down(syscall.SIGTERM))...)
}

func (y *system) dumpFaults() error {
	f, err := y.file("faults.jsonl")
	if err != nil {
		return err
	}
	for _, fault := range y.faults {
		fault.Recovered = y.rec.ackedAfter(fault.Healed)
		err = errors.Join(err, f.write(fault))
	}
	return err
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
