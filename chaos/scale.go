package main

import (
	"context"
	"math"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// scale completes the settings of -scale.
func (s *settings) scale() {
	s.Database = "postgres"
	s.First = []string{"sink", "database"}
	if s.Kafka == "real" {
		s.Brokers = 3
		s.First = append(s.First, slowest)
	}
}

// slowest is the fault that lasts longest. It comes early and once: what is healed
// when the load has ended has nothing to recover with.
const slowest = "majority"

func (s *settings) partitions() int {
	if s.Scale {
		return 12
	}
	return 4
}

// bridgeCount is without the extra one.
func (s *settings) bridgeCount() int {
	if s.Scale {
		return 3
	}
	return 2
}

func (s *settings) notifierCount() int {
	if s.Scale {
		return 2
	}
	return 1
}

// each are the kinds that every process of a scaled system must survive.
var each = []string{"kill", "replace", "stop"}

// scaledFaults are the default of -scale: processes, brokers and the database that
// go, and sinks that fail. Networks, settings and rolling upgrades of Kafka, which
// may take minutes, are the matter of the other runs.
func (s *settings) scaledFaults() string {
	kinds := append(slices.Clone(each), "all", "database", "loop", "pair", "sink", "notices", "term", "update")
	if s.Brokers == 3 {
		kinds = append(kinds, "coordinator", "hang", "leader", "majority")
	}
	return strings.Join(kinds, ",")
}

// again are the kinds that a round of a scaled system has once more: in ten minutes
// each process is to have each of them.
func (y *system) again(plan []string) []string {
	if !y.Scale || y.Once {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(each), func(k string) bool { return !slices.Contains(plan, k) })
}

// oddsOf is one in how many rounds chance adds a kind to: those for every process are in each round.
func (y *system) oddsOf(kind string, usual int) int {
	if y.Scale && kind == slowest {
		return math.MaxInt
	}
	if y.Scale && slices.Contains(each, kind) {
		return 1
	}
	return usual
}

// leastStruck are those of the targets that had the fewest faults of a kind.
func (y *system) leastStruck(kind string, of []target) []target {
	struck := func(t target) int { return y.struck[kind+" "+t.Name()] }
	least := struck(slices.MinFunc(of, func(a, b target) int { return struck(a) - struck(b) }))
	return slices.DeleteFunc(of, func(t target) bool { return struck(t) > least })
}

// needEach is that a long run of a scaled system had every such fault at every process.
func (y *system) needEach(plan []string) map[string]int {
	need := map[string]int{}
	if !y.Scale || y.Duration < 5*time.Minute {
		return need
	}
	for _, kind := range each {
		for _, t := range y.targets[1:] {
			_, ours := t.(*program)
			if slices.Contains(plan, kind) && (ours || kind != "replace") {
				need[kind+" "+t.Name()] = 1
			}
		}
	}
	return need
}

// addSpare makes the process that takes the place of another one of its role. That
// of the bridges is the extra bridge.
func (y *system) addSpare(role string, settings []string) {
	if y.Scale {
		y.spares[role] = y.newProgram(spareName(role), settings...)
	}
}

func spareName(role string) string { return role + "-3" }

// injectReplace puts a new process in the place of another, as a rollout does, and
// later the other way round.
func injectReplace(y *system, ctx context.Context) (fault, error) {
	all := slices.DeleteFunc(slices.Clone(y.targets[1:]), func(t target) bool { _, ours := t.(*program); return !ours })
	free := slices.DeleteFunc(slices.Clone(all), func(t target) bool { return y.hit[t] })
	if len(free) == 0 {
		free = all
	}
	free = y.leastStruck("replace", free)
	old, _ := free[y.rand.IntN(len(free))].(*program)
	y.hit[old] = true
	y.struck["replace "+old.name]++
	spare := y.extraBridge
	if s, ok := y.spares[roleOf(old.name)]; ok {
		spare = s
	}
	sig, how := syscall.SIGTERM, "ends"
	if y.rand.IntN(3) == 0 {
		sig, how = syscall.SIGKILL, "is killed"
	}
	return fault{target: spare.name + " for " + old.name + ", which " + how, last: y.between(2000, 6000), heal: func() error {
		return y.replace(ctx, old.name, spare, old, syscall.SIGTERM)
	}}, y.replace(ctx, old.name, old, spare, sig)
}

// replace starts a process, sends it what was for the named one as soon as it is
// ready, and then ends the old one. Other faults may keep it from being ready.
func (y *system) replace(ctx context.Context, name string, old, next *program, sig syscall.Signal) error {
	if err := next.Up(); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for !y.ready(wait, next.name) && retry.Pause(wait, 50*time.Millisecond) == nil {
	}
	if route := y.routes[name]; route != nil {
		route(y.addrs[next.name])
	}
	return old.Down(sig)
}
