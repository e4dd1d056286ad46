package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// starts are how often each bridge had been started when a subscription was paused.
// A bridge that starts after that must know of the pause before it posts.
type starts map[string]int

// pauses are those that faults have asked for.
type pauses struct {
	restarted atomic.Int64 // bridges killed and started while a subscription was paused
	broken    atomic.Int64 // posts of such bridges to its sink
}

// injectPause pauses a subscription through one bridge, kills bridges while it is
// paused, and resumes it through any. That others post for a moment longer, until
// they have read of it, is no mistake: so only those that started later are judged.
func injectPause(y *system, ctx context.Context) (fault, error) {
	name, r := "audit", y.rec
	if y.rand.IntN(3) == 0 {
		name, r = "notifications", y.notices
	}
	f := fault{target: name + " paused, bridges killed", last: y.between(2000, 5000)}
	asking, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err := y.setPause(asking, name, "pause"); err != nil {
		return f, err
	}
	known := starts{}
	for _, b := range y.bridges {
		known[b.name] = b.started()
	}
	r.paused.Store(&known)
	f.heal = func() error {
		r.paused.Store(nil)
		// Not ended with the faults: a subscription that stays paused delivers nothing.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return y.setPause(asking, name, "resume")
	}
	for _, b := range y.bridges {
		// The embedded broker keeps a dynamic member for ever that dies while it joins
		// (kfake starts its session timer with the first heartbeat), and two pauses can
		// follow each other sooner than a join is answered. The static one takes its own
		// place again.
		if b == y.extraBridge || y.Kafka == "embedded" && b.name != "bridge-1" {
			continue
		}
		if err := errors.Join(b.Down(syscall.SIGKILL), b.Up()); err != nil {
			return f, err
		}
		y.pauses.restarted.Add(1)
	}
	return f, nil
}

// setPause asks one bridge after the other: some may be down, or without Kafka.
func (y *system) setPause(ctx context.Context, name, what string) (err error) {
	for {
		for _, b := range y.bridges {
			if err = order(ctx, "http://"+y.admin[b.name]+"/subscriptions/"+name+"/"+what); err == nil {
				return nil
			}
		}
		if retry.Pause(ctx, 200*time.Millisecond) != nil {
			return fmt.Errorf("%s %s: %w", what, name, err)
		}
	}
}

func order(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s", url, resp.Status)
	}
	return nil
}

// breaks reports whether a post came from a bridge that was started while its
// subscription was paused. via is the bridge's name and the number of its start.
func (s starts) breaks(via string) bool {
	name, number, _ := strings.Cut(via, ".")
	start, err := strconv.Atoi(number)
	return err == nil && start > s[name]
}

// err is what bridges did that had forgotten a pause.
func (p *pauses) err() error {
	if n := p.broken.Load(); n > 0 {
		return fmt.Errorf("%d posts of a bridge that was started while the subscription was paused", n)
	}
	return nil
}
