package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// bridgeFile is the configuration of one bridge. Each start of the bridge writes
// it, and faults rewrite it while the bridge runs.
type bridgeFile struct {
	path string

	mu    sync.Mutex
	text  string    // of the last start
	began time.Time // that start
	turns int
}

func (f *bridgeFile) begin(text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.text, f.began = text, time.Now()
	return os.WriteFile(f.path, []byte(text), 0o600)
}

// change gives one subscription another time-out: the next in turn, so that the
// other one must not notice.
func (f *bridgeFile) change() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turns++
	parts := strings.SplitAfter(f.text, "  - name: ")
	part := &parts[1+f.turns%(len(parts)-1)]
	*part = strings.Replace(*part, "timeout: 3s", fmt.Sprintf("timeout: %dms", 3000+f.turns), 1)
	return f.replace(strings.Join(parts, ""))
}

// spoil puts a file in place that the bridge must refuse; not while it may still be
// starting, since it would end then.
func (f *bridgeFile) spoil() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.began) < 2*time.Second {
		return nil
	}
	return f.replace("subscriptions: [{name: audit, sinc: nowhere}]\n")
}

// replace is atomic, as an orchestrator's is: the bridge may start meanwhile.
func (f *bridgeFile) replace(text string) error {
	if err := os.WriteFile(f.path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(f.path+".new", f.path)
}

// injectReload changes the configuration of a running bridge, then spoils it for a
// while and changes it again. A bridge that is started meanwhile writes its own.
func injectReload(y *system, ctx context.Context) (fault, error) {
	i := y.rand.IntN(len(y.configs) - 1) // not the extra bridge
	f := y.configs[i]
	wait := y.between(2500, 4000) // the bridge looks once a second, and twice
	return fault{target: y.bridges[i].name + " reads another configuration", last: y.between(2500, 4000), heal: func() error {
		if err := f.spoil(); err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return f.change()
	}}, f.change()
}
