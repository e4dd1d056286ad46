//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

const variable = "TASKWIRE_FAILPOINT"

// Power, if set, is called right before the end of a loss of power. It drops what
// was never synced and must keep the rest of the process from writing more.
var Power func()

// plan is one item of the list.
type plan struct {
	point, action string
	at            int64
	hits          atomic.Int64
}

var plans = sync.OnceValue(func() []*plan {
	all, err := parse(os.Getenv(variable)) //nolint:forbidigo // no app reads it: it exists for this package in a test build only
	if err != nil {
		fmt.Fprintln(os.Stderr, variable+": "+err.Error())
		os.Exit(2) //nolint:forbidigo // a sweep with a wrong plan must not look like one that hit nothing
	}
	return all
})

func parse(text string) (all []*plan, err error) {
	for item := range strings.SplitSeq(text, ",") {
		if item == "" {
			continue
		}
		p := &plan{at: 1}
		what, count, counted := strings.Cut(item, "@")
		p.point, p.action, _ = strings.Cut(what, ":")
		if counted {
			p.at, err = strconv.ParseInt(count, 10, 64)
		}
		if err != nil || p.at < 1 || !slices.Contains([]string{"kill", "power", "stop", "error"}, p.action) {
			return nil, fmt.Errorf("%q: want POINT:ACTION or POINT:ACTION@N, where ACTION is kill, power, stop or error", item)
		}
		all = append(all, p)
	}
	return all, nil
}

// Hit is a point where the process may end.
func Hit(point string) { HitAfter(point, func() {}) }

// HitAfter is Hit, and does half of a step before the end.
func HitAfter(point string, half func()) {
	p := fires(point, false)
	if p == nil {
		return
	}
	if p.action != "stop" { // a stopped process does the whole step later
		half()
	}
	if p.action == "power" && Power != nil {
		Power()
	}
	p.log()
	if p.action == "stop" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // no further step until the signal arrives
}

// Fails reports whether the step after this point must fail this time.
func Fails(point string) bool {
	p := fires(point, true)
	if p != nil {
		p.log()
	}
	return p != nil
}

// fires returns the plan that this hit completes, nil in most cases.
func fires(point string, failure bool) *plan {
	for _, p := range plans() {
		if p.point == point && (p.action == "error") == failure && p.hits.Add(1) == p.at {
			return p
		}
	}
	return nil
}

func (p *plan) log() {
	fmt.Fprintf(os.Stderr, "failpoint %s: %s at hit %d\n", p.point, p.action, p.at)
	_ = os.Stderr.Sync() // fails for a terminal
}
