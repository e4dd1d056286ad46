package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
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

	mu   sync.Mutex
	left map[string]bool // may be paused: the answer to a pause or a resume can be lost
}

func (p *pauses) may(name string, be bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left == nil {
		p.left = map[string]bool{}
	}
	p.left[name] = be
}

// resumePaused resumes what no fault could: a subscription that stays paused delivers
// nothing, and that would be taken for a loss.
func (y *system) resumePaused() error {
	y.pauses.mu.Lock()
	left := maps.Clone(y.pauses.left)
	y.pauses.mu.Unlock()
	var errs []error
	for name, paused := range left {
		if paused {
			errs = append(errs, y.setPause(2*time.Minute, name, "resume"))
		}
	}
	return errors.Join(errs...)
}

// injectPause pauses a subscription through one bridge, kills bridges while it is
// paused, and resumes it through any. That others post for a moment longer, until
// they have read of it, is no mistake: so only those that started later are judged.
func injectPause(y *system, _ context.Context) (fault, error) {
	name, r := "audit", y.rec
	if y.rand.IntN(3) == 0 {
		name, r = "notifications", y.notices
	}
	f := fault{target: name + " paused, bridges killed", last: y.between(2000, 5000)}
	if err := y.setPause(20*time.Second, name, "pause"); err != nil {
		return f, err
	}
	known := starts{}
	for _, b := range y.bridges {
		known[b.name] = b.started()
	}
	r.paused.Store(&known)
	f.heal = func() error {
		r.paused.Store(nil)
		return y.setPause(time.Minute, name, "resume")
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

// setPause asks one bridge after the other: some may be down, or without Kafka. It goes
// on when the faults end.
func (y *system) setPause(patience time.Duration, name, what string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	y.pauses.may(name, true)
	for {
		for _, b := range y.bridges {
			if err = order(ctx, "http://"+y.admin[b.name]+"/subscriptions/"+name+"/"+what); err == nil {
				y.pauses.may(name, what == "pause")
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
