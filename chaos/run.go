package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/internal/check"
	"github.com/taskwire/taskwire/internal/retry"
)

// run starts a system in s.Dir, breaks it, drains it and judges what is left.
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
		return nil, fmt.Errorf("%s already holds a run: judge it with check, or name another folder", s.Dir)
	}
	fmt.Fprintf(stdout, "seed %d, kept in %s\n", s.Seed, s.Dir)
	y, err := open(ctx, s, stdout)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(y.play(ctx), y.close()); err != nil {
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

// play runs the load and the faults, then drains and dumps the system.
func (y *system) play(ctx context.Context) error {
	var err error
	if y.watch, err = newWatch(y); err != nil {
		return err
	}
	workers, err := y.newWorkers()
	if err != nil {
		return err
	}
	began := time.Now()
	loading, stopLoad := context.WithTimeout(ctx, y.Duration)
	defer stopLoad()
	watching, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	var clients, watchers errgroup.Group
	for _, w := range workers {
		clients.Go(func() error { return w.run(loading) })
	}
	watchers.Go(func() error { return y.watch.run(watching) })
	watchers.Go(func() error { y.progress(watching, began); return nil })
	if y.Strikes != nil {
		y.sweep(loading)
		stopLoad()
	}
	injecting, stopFaults := context.WithTimeout(loading, y.Duration-min(5*time.Second, y.Duration/5))
	defer stopFaults()
	y.injectFaults(injecting)
	if y.Once {
		stopLoad()
	}
	err = errors.Join(y.heal(), clients.Wait())
	y.printf("load ended, draining")
	stuck := y.drain(ctx)
	if stuck == "" && y.redrives() {
		stuck = y.redriveRest(ctx)
	}
	stopWatch()
	err = errors.Join(err, watchers.Wait())
	if ctx.Err() != nil {
		return errors.Join(ctx.Err(), err)
	}
	return errors.Join(err, y.finish(ctx, stuck, time.Since(began)))
}

func (y *system) newWorkers() ([]*worker, error) {
	var all []*worker
	for i := range y.Workers {
		f, err := y.file(fmt.Sprintf("history-%02d.jsonl", i))
		if err != nil {
			return nil, err
		}
		all = append(all, &worker{load: y.load, rand: rand.New(rand.NewPCG(y.Seed, uint64(i)+100)), file: f,
			gap: time.Duration(float64(time.Second) / y.Rate)})
	}
	return all, nil
}

func (y *system) progress(ctx context.Context, began time.Time) {
	for retry.Pause(ctx, 5*time.Second) == nil {
		y.mu.Lock()
		faults := len(y.faults)
		y.mu.Unlock()
		acks := y.load.acks.Load()
		y.printf("requests %d acknowledged %d (%.0f/s) in flight %d delivered %d lag %d faults %d", y.load.requests.Load(), acks,
			float64(acks)/time.Since(began).Seconds(), y.load.inFlight.Load(), y.rec.acknowledged(), y.watch.lag(), faults)
	}
}

// drain waits until nothing is left to deliver. It returns what it still waits
// for when the time is up, "" when nothing.
func (y *system) drain(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, y.Drain)
	defer cancel()
	for idle := 0; ; {
		waiting := y.watch.waiting(ctx)
		if idle++; waiting != "" {
			idle = 0
		}
		if idle == 4 {
			return ""
		}
		if retry.Pause(ctx, 500*time.Millisecond) != nil {
			if waiting == "" {
				waiting = "the drain ended before it was seen empty four times running"
			}
			return waiting
		}
	}
}
