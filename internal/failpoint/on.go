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

// Power, when set, drops what a loss of power would drop and must keep the
// rest of the process from writing more: it is called right before the end.
var Power func()

// plan is one thing that is to happen.
type plan struct {
	point, action string
	at            int64
	hits          atomic.Int64
}

var plans = sync.OnceValue(func() []*plan {
	all, err := parse(os.Getenv(variable)) //nolint:forbidigo // no app reads it: it is for this package in a test build only
	if err != nil {
		fmt.Fprintln(os.Stderr, variable+": "+err.Error())
		os.Exit(2) //nolint:forbidigo // a sweep that does not say what it wants must not look like one that hit nothing
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
			return nil, fmt.Errorf("%q is not POINT:kill, power, stop or error, with @N or without", item)
		}
		all = append(all, p)
	}
	return all, nil
}

// Hit is where a process may be made to end.
func Hit(point string) { HitAfter(point, func() {}) }

// HitAfter is Hit that does half of a step before.
func HitAfter(point string, half func()) {
	p := fires(point, false)
	if p == nil {
		return
	}
	if p.action != "stop" { // which goes on with the whole step
		half()
	}
	if p.action == "power" && Power != nil {
		Power()
	}
	p.tell()
	if p.action == "stop" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // not one step further
}

// Fails says that the step behind this point is to fail this time.
func Fails(point string) bool {
	p := fires(point, true)
	if p != nil {
		p.tell()
	}
	return p != nil
}

// fires is what is to happen now, nil as a rule.
func fires(point string, failure bool) *plan {
	for _, p := range plans() {
		if p.point == point && (p.action == "error") == failure && p.hits.Add(1) == p.at {
			return p
		}
	}
	return nil
}

func (p *plan) tell() {
	fmt.Fprintf(os.Stderr, "failpoint %s: %s at hit %d\n", p.point, p.action, p.at)
	_ = os.Stderr.Sync() // a terminal cannot, a file can
}
