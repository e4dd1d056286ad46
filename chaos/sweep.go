package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/retry"
)

// strike ends one process at one point; see internal/failpoint for the points.
type strike struct {
	name    string // of the point
	program string
	most    int // the hit is one of the first most
	// refused makes the auditor refuse most posts meanwhile, so that bridges have
	// events in flight that they will no longer deliver.
	refused bool
	// plans are for one start after the other, %d is the hit; the last one ends the strike.
	plans []string
	// stopped: the process is stopped there instead of killed, for longer than
	// the session timeout, and continues as a zombie.
	stopped bool
	// provoke brings the process to the point; nil when the load does.
	provoke func(*system, context.Context) error
	// after undoes provoke when the point has been hit.
	after func(*system) error
	// database is where the auditor must have its log for the point to be in its way:
	// sqlite stands for a file. Empty: anywhere.
	database string
}

// strikes returns all of them.
func strikes() []strike {
	var all []strike
	add := func(program string, most int, names ...string) {
		for _, name := range names {
			all = append(all, strike{name: name, program: program, most: most, plans: []string{name + ":kill@%d"}})
		}
	}
	add("taskapi", 40, "A1", "A2", "A3", "A4", "A5", "A6")
	add("taskapi", 10, "R1", "R2", "R3", "R4", "R5")
	add("bridge-1", 20, "B1", "B2", "B3", "B4", "B5")
	all = append(all,
		strike{name: "B6", program: "bridge-1", most: 2, plans: []string{"B6:kill@%d"}, provoke: (*system).sendMalformed},
		strike{name: "B7", program: "bridge-1", most: 1, plans: []string{"B7:kill@%d"}, refused: true,
			provoke: (*system).takePartitions},
		strike{name: "B8", program: "bridge-1", most: 1, plans: []string{"B8:kill@%d"}, refused: true,
			provoke: func(y *system, _ context.Context) error { return y.bridges[0].Down(syscall.SIGTERM) },
			after:   func(y *system) error { return y.bridges[0].Up() }})
	all = append(all,
		strike{name: "D1", program: "bridge-1", most: 5, plans: []string{"D1:kill@%d"}, provoke: redriveUntilKilled("")},
		strike{name: "D2", program: "bridge-1", most: 5, plans: []string{"D2:kill@%d"}, provoke: redriveUntilKilled("422"),
			after: func(y *system) error { y.notices.mode.Store(nil); return nil }})
	all = append(all,
		strike{name: "B1-stop", program: "bridge-1", most: 20, plans: []string{"B1:stop@%d"}, stopped: true},
		strike{name: "B3-stop", program: "bridge-1", most: 20, plans: []string{"B3:stop@%d"}, stopped: true})
	add("auditor", 40, "U1", "U5", "U6")
	add("auditor", 4, "T1", "T2", "T3", "T4")
	others := len(all)
	add("auditor", 20, "P1", "P2", "P3", "P4")
	all = append(all, strike{name: "P1-stop", program: "auditor", most: 20, plans: []string{"P1:stop@%d"}, stopped: true})
	for i := range all[others:] {
		all[others+i].database = "postgres"
	}
	others = len(all)
	add("auditor", 40, "U2", "U3", "U4")
	add("auditor", 8, "U8") // two segments: each has four steps
	all = append(all,
		strike{name: "U7", program: "auditor", most: 20, plans: []string{"U2:kill@%d", "U7:kill@1", "U7:kill@2"}},
		strike{name: "U1-power", program: "auditor", most: 40, plans: []string{"U1:power@%d"}},
		strike{name: "U3-power", program: "auditor", most: 40, plans: []string{"U3:power@%d"}},
		strike{name: "U5-power", program: "auditor", most: 40, plans: []string{"U5:power@%d"}},
		// A process whose fsync has failed ends by itself; one that does not loses power a little later.
		strike{name: "U3-error", program: "auditor", most: 10, plans: []string{"U3:error@%d,U1:power@400"}})
	for i := range all[others:] {
		all[others+i].database = "sqlite"
	}
	return all
}

// pickStrikes returns the strikes of a list of names, all for an empty list, that a
// system with this database comes to.
func pickStrikes(list, database string) ([]strike, error) {
	all := slices.DeleteFunc(strikes(), func(s strike) bool { return s.database != "" && s.database != database })
	if list == "" {
		return all, nil
	}
	var chosen []strike
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(s strike) bool { return s.name == name })
		if i < 0 {
			return nil, &usageError{fmt.Sprintf("-points: no point of a system on %s is called %s", database, name)}
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// sweepCommand kills the process of each point there, several times, in one run.
func sweepCommand(ctx context.Context, args []string, stdout io.Writer) error {
	s := settings{Drain: 90 * time.Second, Workers: 8, Rate: 20, Answers: allAnswers}
	rest, err := parse("sweep", args, func(f *flag.FlagSet) {
		f.IntVar(&s.Times, "times", 3, "")
		f.StringVar(&s.Points, "points", "", "")
		f.StringVar(&s.Kafka, "kafka", "auto", "")
		f.StringVar(&s.Database, "database", "sqlite", "")
		f.StringVar(&s.Dir, "dir", "", "")
		f.Uint64Var(&s.Seed, "seed", uint64(time.Now().UnixNano())%1e9, "")
	})
	switch {
	case err != nil:
		return err
	case len(rest) > 0 || s.Times < 1:
		return &usageError{"sweep takes no arguments besides flags, and -times must be at least 1"}
	}
	if s.Kafka, err = chooseKafka(s.Kafka); err != nil {
		return err
	}
	if err := s.checkChoices(); err != nil {
		return err
	}
	if err := s.sweep(); err != nil {
		return err
	}
	rep, err := run(ctx, s, stdout)
	if err != nil {
		return err
	}
	return sweepReport(s, rep, stdout)
}

// sweep turns the settings of a run into those of a sweep.
func (s *settings) sweep() (err error) {
	s.Strikes, err = pickStrikes(s.Points, s.Database)
	s.Faults, s.Tags, s.Duration = "", "failpoint", time.Hour // the load ends with the last strike
	s.Need = needOf(*s)
	return err
}

// needOf is what the strikes must leave behind: a kill after an effect proves
// nothing unless a later attempt met that effect.
func needOf(s settings) map[string]int {
	need := map[string]int{"acks": 10 * s.Times * len(s.Strikes), "commits": 1}
	for _, k := range s.Strikes {
		need["recovered:"+k.name] = s.Times
		switch k.name {
		case "U2", "U7":
			need["torn-tails"] += s.Times
		case "U4", "U5", "U6", "P4": // an entry that is on disk is posted again
			need["dedup-hits"] += s.Times
		case "B3": // an event that the sink has is posted again
			need["redeliveries"]++
		case "R2", "R3":
			need["republished"]++
		case "B6":
			need["dead-letters"] = s.Times
		case "D1", "D2":
			need["redriven"] = 1
		case "B7", "B1-stop", "B3-stop":
			need["rebalances"] += s.Times
		}
	}
	return need
}

func sweepReport(s settings, rep *check.Report, stdout io.Writer) error {
	var b strings.Builder
	missed := false
	fmt.Fprintf(&b, "%-10s %-9s %7s %4s %9s\n", "point", "process", "planned", "hit", "recovered")
	for _, k := range s.Strikes {
		f := rep.Faults[k.name]
		missed = missed || f.Injected != s.Times || f.Recovered != s.Times
		fmt.Fprintf(&b, "%-10s %-9s %7d %4d %9d\n", k.name, k.program, s.Times, f.Injected, f.Recovered)
	}
	b.WriteString("all points")
	for _, rule := range check.Rules() {
		fmt.Fprintf(&b, " %s %d", rule, rep.Violations[rule])
	}
	verdict := rep.Verdict
	if missed {
		verdict = check.Red + ": a point was hit, or recovered from, less often than planned"
	}
	fmt.Fprintf(&b, "\nsweep of %d points x %d, seed %d: %s\n", len(s.Strikes), s.Times, s.Seed, verdict)
	if _, err := io.WriteString(stdout, b.String()); err != nil {
		return err
	}
	if verdict != check.Green {
		return errVerdict
	}
	return nil
}

// takePartitions makes the first bridge lose partitions to the other one: that one stops,
// and when the first has all, it comes back.
func (y *system) takePartitions(ctx context.Context) error {
	if err := y.bridges[1].Down(syscall.SIGTERM); err != nil {
		return err
	}
	has := func() bool { // in both subscriptions
		return len(samples(ctx, y.ops[y.bridges[0].name], "taskwire_bridge_lag")) == 2*y.partitions()
	}
	if !until(ctx, has) {
		return errors.Join(errors.New("the bridge did not get all partitions"), y.bridges[1].Up())
	}
	return y.bridges[1].Up()
}

// armed has the plans for the next starts of each process.
type armed struct {
	mu    sync.Mutex
	plans map[string][]string // by process; guarded by mu
}

// next is what to add to the environment of the next start.
func (a *armed) next(name string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.plans[name]) == 0 {
		return nil
	}
	plan := a.plans[name][0]
	a.plans[name] = a.plans[name][1:]
	return []string{"TASKWIRE_FAILPOINT=" + plan}
}

func (a *armed) set(name string, plans []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.plans[name] = plans
}

// sweep strikes every point Times times, in rounds of a random order.
func (y *system) sweep(ctx context.Context) {
	arms := &armed{plans: map[string][]string{}}
	for _, t := range y.targets {
		if p, ok := t.(*program); ok {
			env := p.env
			p.env = func(start int) ([]string, error) {
				settings, err := env(start)
				return append(settings, arms.next(p.name)...), err
			}
		}
	}
	n := 0
	for range y.Times {
		round := slices.Clone(y.Strikes)
		y.rand.Shuffle(len(round), func(i, k int) { round[i], round[k] = round[k], round[i] })
		for _, k := range round {
			if n++; ctx.Err() != nil {
				return
			}
			if !y.strike(ctx, arms, k, fmt.Sprintf("%d of %d", n, y.Times*len(y.Strikes))) {
				return // a process that does not come back cannot be struck again
			}
		}
	}
}

// strike arms a new start of the process and waits until it has ended and the
// system delivers again. It returns false when the process does not come back.
func (y *system) strike(ctx context.Context, arms *armed, k strike, which string) bool {
	p := y.program(k.program)
	plans := make([]string, len(k.plans))
	for i, plan := range k.plans {
		plans[i] = strings.ReplaceAll(plan, "%d", fmt.Sprint(1+y.rand.IntN(k.most)))
	}
	began, starts := time.Now(), p.started()
	err := y.arm(ctx, arms, p, k, plans)
	record := check.Fault{Kind: k.name, Target: p.name, At: y.clock.now(), InFlight: y.awaitTraffic(ctx)}
	hit := time.Since(began)
	arms.set(p.name, nil)
	y.rec.mode.Store(nil)
	y.powerLoss.Store(false)
	if k.after != nil {
		err = errors.Join(err, k.after(y))
	}
	switch {
	case err != nil:
	case k.stopped:
		_ = retry.Pause(ctx, 12*time.Second) // the end of the sweep continues it at once
		err = p.Signal(syscall.SIGCONT)
	case !until(ctx, func() bool { return p.started() > starts+len(plans) }): // one for each plan, and the one after
		err = errors.New("the process did not end")
	}
	if err != nil {
		y.printf("strike %s: %s %v: NOT HIT: %v", which, k.name, plans, err)
		if err := errors.Join(p.Down(syscall.SIGTERM), p.Up()); err != nil {
			y.printf("restart %s: %v", p.name, err)
		}
		return true
	}
	back := y.awaitProcess(ctx, p)
	record.Healed = y.clock.now()
	until(ctx, func() bool { return y.rec.ackedAfter(record.Healed) > 0 })
	y.record(record)
	y.printf("strike %s: %s %v: hit after %.1fs, back %v, all after %.1fs", which, k.name, plans, hit.Seconds(), back, time.Since(began).Seconds())
	return back
}

// arm starts the process with the plans and returns when it has logged the line
// of every plan.
func (y *system) arm(ctx context.Context, arms *armed, p *program, k strike, plans []string) error {
	log := y.path(p.name + ".log")
	y.powerLoss.Store(strings.Contains(strings.Join(plans, ","), ":power"))
	if mode := "500"; k.refused {
		y.rec.mode.Store(&mode)
		if err := retry.Pause(ctx, 400*time.Millisecond); err != nil {
			return err
		}
	}
	info, err := os.Stat(log)
	if err != nil {
		return err
	}
	if err := p.Down(syscall.SIGTERM); err != nil {
		return err
	}
	arms.set(p.name, plans)
	if err := p.Up(); err != nil {
		return err
	}
	if k.provoke != nil {
		// It must have its partitions before they can be taken from it.
		if !y.awaitProcess(ctx, p) {
			return errors.New("the process is not ready")
		}
		if err := k.provoke(y, ctx); err != nil {
			return err
		}
	}
	if !until(ctx, func() bool {
		text, err := os.ReadFile(log)
		return err == nil && logged(text[info.Size():], plans)
	}) {
		return errors.New("no line from the failpoint")
	}
	return nil
}

// until polls done for at most half a minute.
func until(ctx context.Context, done func() bool) bool {
	for range 600 {
		if done() {
			return true
		}
		if retry.Pause(ctx, 50*time.Millisecond) != nil {
			return false
		}
	}
	return false
}

// logged reports whether the log has the line of the first part of each plan.
func logged(log []byte, plans []string) bool {
	for _, plan := range plans {
		first, _, _ := strings.Cut(plan, ",")
		what, at, _ := strings.Cut(first, "@")
		if !bytes.Contains(log, []byte(fmt.Sprintf("failpoint %s at hit %s\n", strings.Replace(what, ":", ": ", 1), at))) {
			return false
		}
	}
	return true
}

// awaitProcess returns true when the process is ready.
func (y *system) awaitProcess(ctx context.Context, p *program) bool {
	if until(ctx, func() bool { return y.ready(ctx, p.name) }) {
		return true
	}
	y.printf("%s is not ready after 30 s", p.name)
	return false
}

// sendMalformed produces records that are not events: each must become a dead letter.
func (y *system) sendMalformed(ctx context.Context) error {
	producer := kafka.NewProducer(y.watch.client, slog.New(slog.DiscardHandler))
	for i := range 3 * y.partitions() { // without a key each goes to the next partition
		record := event.Record{Value: fmt.Appendf(nil, "no event %d %d", y.clock.now(), i)}
		if err := producer.Produce(ctx, topic, []event.Record{record}); err != nil {
			return err
		}
	}
	return nil
}
