package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/kafkatest"
)

// kinds are what can be broken: each picks a target and breaks it, and returns
// for how long and what heals it.
var kinds = map[string]func(y *system) (what string, last time.Duration, heal func() error, err error){
	"kill": func(y *system) (string, time.Duration, func() error, error) {
		t := y.pick()
		return t.Name(), y.between(100, 3000), t.Up, t.Down(syscall.SIGKILL)
	},
	"term": func(y *system) (string, time.Duration, func() error, error) {
		t := y.pick()
		return t.Name(), y.between(100, 3000), t.Up, t.Down(syscall.SIGTERM)
	},
	// Longer than the session time-out of 10 s: a bridge wakes up as a zombie.
	"stop": func(y *system) (string, time.Duration, func() error, error) {
		t := y.pick()
		if y.rand.IntN(2) == 0 {
			t = y.targets[3+y.rand.IntN(2)] // a bridge
		}
		return t.Name(), y.between(10500, 13000), func() error { return t.Signal(syscall.SIGCONT) }, t.Signal(syscall.SIGSTOP)
	},
	"sink": func(y *system) (string, time.Duration, func() error, error) {
		modes := strings.Split(y.Answers, ",")
		mode := modes[(y.sinkTurn+y.rand.IntN(2))%len(modes)]
		y.sinkTurn += 2
		y.rec.mode.Store(&mode)
		return "auditor answers " + mode, y.between(1000, 4000), func() error { y.rec.mode.Store(nil); return nil }, nil
	},
	"broker": func(y *system) (string, time.Duration, func() error, error) {
		t := y.targets[0]
		switch y.rand.IntN(3) {
		case 0:
			return "broker kill", y.between(100, 3000), t.Up, t.Down(syscall.SIGKILL)
		case 1:
			return "broker term", y.between(100, 3000), t.Up, t.Down(syscall.SIGTERM)
		}
		return "broker stop", y.between(2000, 6000), func() error { return t.Signal(syscall.SIGCONT) }, t.Signal(syscall.SIGSTOP)
	},
}

// pick is a process other than the broker.
func (y *system) pick() target { return y.targets[1+y.rand.IntN(len(y.targets)-1)] }

func (y *system) between(low, high int) time.Duration {
	return time.Duration(low+y.rand.IntN(high-low)) * time.Millisecond
}

// breakThings breaks a random subset, heals it and lets the system recover, over
// and over until the load ends. Each kind has its turn before chance decides.
func (y *system) breakThings(ctx context.Context) {
	all := slices.DeleteFunc(strings.Split(y.Faults, ","), func(k string) bool { return k == "" })
	slices.Sort(all)
	turn := slices.Clone(all)
	y.rand.Shuffle(len(turn), func(i, k int) { turn[i], turn[k] = turn[k], turn[i] })
	for pause(ctx, y.between(1500, 4000)) && len(all) > 0 {
		var chosen []string
		if len(turn) > 0 {
			chosen, turn = append(chosen, turn[0]), turn[1:]
		}
		for _, k := range all {
			if y.rand.IntN(3) == 0 && !slices.Contains(chosen, k) {
				chosen = append(chosen, k)
			}
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < 3*time.Second {
			break
		}
		y.breakOnce(ctx, chosen)
	}
	<-ctx.Done()
}

func (y *system) breakOnce(ctx context.Context, chosen []string) {
	var round sync.WaitGroup
	for _, kind := range chosen { // broken one after the other, so that the seed decides all of it
		f := check.Fault{Kind: kind, InFlight: y.bite(ctx), At: y.clock.now()}
		what, last, heal, err := kinds[kind](y)
		f.Target = what
		y.say("break %s: %s for %s, %d in flight", kind, what, last.Round(100*time.Millisecond), f.InFlight)
		if err != nil {
			y.say("break %s: %v", kind, err)
		}
		round.Go(func() {
			pause(ctx, last)
			if err := heal(); err != nil {
				y.say("heal %s: %v", what, err)
			}
			f.Healed = y.clock.now()
			y.mu.Lock()
			defer y.mu.Unlock()
			y.faults = append(y.faults, f)
		})
	}
	round.Wait()
}

// bite waits a moment for something to be in flight, and says how much is: a
// fault of an idle system shows nothing.
func (y *system) bite(ctx context.Context) int {
	for range 500 {
		if n := int(y.load.inFlight.Load() + y.rec.inHand.Load()); n > 0 || !pause(ctx, time.Millisecond) {
			return n
		}
	}
	return 0
}

// heal ends every fault, also one that a later one has covered.
func (y *system) heal() error {
	y.rec.mode.Store(nil)
	var errs []error
	for _, t := range y.targets {
		errs = append(errs, t.Signal(syscall.SIGCONT), t.Up())
	}
	return errors.Join(errs...)
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

func (y *system) startBroker(ctx context.Context) error {
	if y.Kafka == "real" {
		real, err := kafkatest.OpenReal(ctx, kafkatest.Options{Dir: y.path("kafka"), Progress: y.out})
		if err != nil {
			return err
		}
		y.targets, y.brokers = append(y.targets, &kafkaBroker{Real: real}), real.Brokers
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addr := freePort()
	p := &process{name: "broker", path: self, dir: y.Dir, env: func(int) ([]string, error) {
		return []string{"CHAOS_BROKER=" + addr, "CHAOS_DATA=" + y.path("kafka"), fmt.Sprintf("CHAOS_PARTITIONS=%d", partitions)}, nil
	}}
	y.targets, y.brokers = append(y.targets, p), []string{addr}
	return p.Up()
}
