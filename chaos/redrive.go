package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// injectRedrive has the notifier refuse events for a while, and then a bridge
// deliver their dead letters. Every other time the bridge is killed at it.
func injectRedrive(y *system, ctx context.Context) (fault, error) {
	mode, b := "422", y.bridges[y.rand.IntN(y.bridgeCount())]
	die := time.Duration(0)
	how := "delivers them"
	if y.turns["redrive"]++; y.turns["redrive"]%2 == 0 { // the first one is counted
		die, how = y.between(20, 400), "is killed at it"
	}
	rejected := y.notices.rejected.Load()
	y.notices.mode.Store(&mode)
	return fault{target: "notifier refuses, " + b.name + " redrives and " + how, last: y.between(1000, 3000), heal: func() error {
		for range 200 { // until there is a letter: other faults may keep the bridges from posting
			if y.notices.rejected.Load() > rejected || retry.Pause(ctx, 100*time.Millisecond) != nil {
				break
			}
			y.notices.mode.Store(&mode) // the end of another fault may have changed it
		}
		y.notices.mode.Store(nil)
		// The run may end meanwhile: the last redrive is that of redriveRest.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		job, err := y.redrive(ctx, b)
		if err != nil {
			return nil // another fault has the bridge, or a redrive is under way
		}
		if die == 0 {
			_, _ = y.awaitJob(ctx, b, job) // what it leaves, a later one delivers
			return nil
		}
		_ = retry.Pause(ctx, die)
		if err := b.Down(syscall.SIGKILL); err != nil {
			return err
		}
		return b.Up()
	}}, nil
}

// redriveUntilKilled has the notifier refuse events, and bridge-1 redrive their
// letters while the notifier answers so.
func redriveUntilKilled(answer string) func(*system, context.Context) error {
	return func(y *system, ctx context.Context) error {
		refuse := "422"
		y.notices.mode.Store(&refuse)
		err := retry.Pause(ctx, 2*time.Second)
		if y.notices.mode.Store(nil); answer != "" {
			y.notices.mode.Store(&answer)
		}
		if err != nil {
			return err
		}
		job, err := y.redrive(ctx, y.bridges[0])
		if err == nil {
			_, _ = y.awaitJob(ctx, y.bridges[0], job) // the bridge dies at it
		}
		return err
	}
}

// redrives reports whether dead letters are redriven in this run.
func (y *system) redrives() bool {
	kinds, _ := y.plan()
	return slices.Contains(kinds, "redrive") || slices.ContainsFunc(y.Strikes, func(k strike) bool { return k.name[0] == 'D' })
}

// redriveRest redrives until no event is a letter of the notifier. It returns what
// is in the way, "" for nothing.
func (y *system) redriveRest(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, y.Drain)
	defer cancel()
	for why := ""; ; {
		b := y.bridges[0]
		job, err := y.redrive(ctx, b)
		if err == nil {
			job, err = y.awaitJob(ctx, b, job)
		}
		switch {
		case err != nil:
			why = err.Error()
		case job.State == "done" && job.Progress.Failed == 0:
			y.redriven.Store(true)
			return ""
		default:
			why = fmt.Sprintf("%+v", job)
		}
		if retry.Pause(ctx, time.Second) != nil {
			return "open dead letters: " + why
		}
	}
}

// redriveJob is a job of a bridge.
type redriveJob struct {
	ID, State, Reason string
	Progress          struct{ Delivered, Failed, Open int }
}

// redrive leaves out what is no event: it would be a letter again each time.
func (y *system) redrive(ctx context.Context, b *program) (redriveJob, error) {
	return y.ask(ctx, http.MethodPost, b, "/deadletters/redrive", `{"subscription": "notifications", "by": "chaos", "select": {"reasons": ["rejected", "exhausted"]}}`)
}

// awaitJob returns the job when it has ended, and adds up what it has delivered.
func (y *system) awaitJob(ctx context.Context, b *program, job redriveJob) (redriveJob, error) {
	for job.State == "running" {
		var err error
		if job, err = y.ask(ctx, http.MethodGet, b, "/deadletters/jobs/"+job.ID+"?wait=5", ""); err != nil {
			return job, err
		}
	}
	y.letters.Add(int64(job.Progress.Delivered))
	return job, nil
}

func (y *system) ask(ctx context.Context, method string, b *program, path, body string) (job redriveJob, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+y.admin[b.name]+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return job, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return job, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return job, err
	}
	if resp.StatusCode != http.StatusOK {
		return job, fmt.Errorf("%s of %s: %d %s", path, b.name, resp.StatusCode, text)
	}
	return job, json.Unmarshal(text, &job)
}
