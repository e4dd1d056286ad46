package app

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/retry"
)

// Reconcile is the subcommand that compares the log with the Task API. An event
// that was suppressed leaves a gap in the versions of its task only when a later
// one follows; the API knows the last version of each.
func Reconcile() process.Sub {
	return process.Sub{Name: "reconcile", Usage: "--tasks URL [--token-file FILE] [--settle 10s] [PATH]", Run: runReconcile}
}

func runReconcile(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("reconcile", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints the mistake
	url := flags.String("tasks", "", "")
	tokenFile := flags.String("token-file", "", "")
	settle := flags.Duration("settle", 10*time.Second, "")
	if err := flags.Parse(args); err != nil {
		return process.Usagef("%v; want --tasks URL [--token-file FILE] [--settle 10s] [PATH]", err)
	}
	path := env.NewReader(lookup).String("AUDIT_LOG_PATH", defaultPath)
	switch {
	case *url == "":
		return process.Usagef("--tasks is missing: the address of the Task API, such as http://localhost:8000")
	case flags.NArg() > 1:
		return process.Usagef("reconcile takes at most one path")
	case flags.NArg() == 1:
		path = flags.Arg(0)
	}
	api, err := newTaskAPI(*url, *tokenFile)
	if err != nil {
		return err
	}
	defer api.client.CloseIdleConnections()
	log, err := ledger.OpenReader(path)
	if err != nil {
		return err
	}
	defer log.Close()
	r := &reconciliation{api: api, log: log, settle: *settle, tasks: map[string]*versions{}, stderr: stderr, tick: rate.Sometimes{Interval: 2 * time.Second}}
	return r.run(ctx, stdout)
}

// reconciliation compares two things that change meanwhile, and reports only what
// no delay explains. Each side's claim is held against a later reading of the other:
//
//	1  versions of the API
//	2  the log                 must have them, at the latest after the settle time:
//	                           an event may be on its way through outbox and Kafka
//	3  the API again, for the tasks that were ahead in 2: a change is committed
//	                           before its event is published, so it must know them
//
// It holds about 150 bytes for each task.
type reconciliation struct {
	api    *taskAPI
	log    *ledger.Reader
	settle time.Duration
	tasks  map[string]*versions
	at     int64 // the log was read up to here
	stderr io.Writer
	tick   rate.Sometimes
}

// versions is what is known of a task.
type versions struct {
	api   int64   // the version that the API gave; 0 when it does not know the task
	upTo  int64   // the log has 1 to upTo
	later []int64 // and these above it, with a hole before the first; sorted
}

// highest is the highest version in the log.
func (v *versions) highest() int64 {
	if n := len(v.later); n > 0 {
		return v.later[n-1]
	}
	return v.upTo
}

// add notes a version that the log has.
func (v *versions) add(n int64) {
	if n <= v.upTo {
		return
	}
	if i, found := slices.BinarySearch(v.later, n); !found {
		v.later = slices.Insert(v.later, i, n)
	}
	for len(v.later) > 0 && v.later[0] == v.upTo+1 {
		v.upTo, v.later = v.later[0], v.later[1:]
	}
}

// missing is what the log lacks below the version of the API, as text: "3, 5-7".
func (v *versions) missing() string {
	var b strings.Builder
	from := v.upTo + 1
	hole := func(to int64) {
		switch {
		case from == to:
			fmt.Fprintf(&b, ", %d", from)
		case from < to:
			fmt.Fprintf(&b, ", %d-%d", from, to)
		}
	}
	for _, n := range v.later {
		hole(min(n-1, v.api))
		from = n + 1
	}
	hole(v.api)
	return strings.TrimPrefix(b.String(), ", ")
}

func (r *reconciliation) run(ctx context.Context, stdout io.Writer) error {
	if err := r.api.list(ctx, func(id string, version int64) {
		r.task(id).api = version
		r.progress("%d tasks read from the API", len(r.tasks))
	}); err != nil {
		return err
	}
	if err := r.readLog(ctx); err != nil {
		return err
	}
	ahead, err := r.ahead(ctx)
	if err != nil {
		return err
	}
	missing, err := r.settled(ctx)
	if err != nil {
		return err
	}
	return r.report(stdout, missing, ahead)
}

func (r *reconciliation) task(id string) *versions {
	v := r.tasks[id]
	if v == nil {
		v = &versions{}
		r.tasks[id] = v
	}
	return v
}

// readLog reads on to the last complete line. It takes no lock: the auditor may
// append meanwhile.
func (r *reconciliation) readLog(ctx context.Context) error {
	size, err := r.log.Size()
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(io.NewSectionReader(r.log, r.at, max(0, size-r.at)))
	lines.Buffer(make([]byte, 0, 64<<10), 17<<20)
	lines.Split(completeLines)
	for lines.Scan() && ctx.Err() == nil {
		line := lines.Bytes()
		if err := r.read(line); err != nil {
			name, at := r.log.At(r.at)
			return fmt.Errorf("%s is damaged in the line at byte %d: %w", name, at, err)
		}
		r.at += int64(len(line)) + 1
		r.progress("%d%% of the log read", 100*r.at/max(size, 1))
	}
	return errors.Join(ctx.Err(), lines.Err())
}

// completeLines leaves out what follows the last line feed: it is being written,
// or was never acknowledged.
func completeLines(data []byte, _ bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}

func (r *reconciliation) read(line []byte) error {
	if !bytes.Contains(line, []byte(`"source":"`+event.Source+`"`)) {
		return nil // of another system
	}
	e, err := ledger.ParseLine(line)
	if err != nil || e.Source != event.Source {
		return err
	}
	if n, ok := e.TaskVersion(); ok && n > 0 {
		r.task(e.TaskID()).add(n)
	}
	return nil
}

// ahead asks the API again for each task of which the log has a higher version,
// and returns those that it still does not know.
func (r *reconciliation) ahead(ctx context.Context) (map[string]string, error) {
	ahead := map[string]string{}
	for id, v := range r.tasks {
		if v.highest() <= v.api {
			continue
		}
		now, err := r.api.version(ctx, id)
		switch {
		case err != nil:
			return nil, err
		case now == 0:
			ahead[id] = fmt.Sprintf("version %d is in the log, and the API does not know the task", v.highest())
		case now < v.highest():
			ahead[id] = fmt.Sprintf("version %d is in the log, ahead of the API's %d", v.highest(), now)
		}
		r.progress("checked again: task %s", printable(id))
	}
	return ahead, nil
}

// settled reads what is appended to the log until nothing is missing or the time is over.
func (r *reconciliation) settled(ctx context.Context) (map[string]string, error) {
	for end := time.Now().Add(r.settle); ; {
		missing := map[string]string{}
		for id, v := range r.tasks {
			if text := v.missing(); text != "" {
				missing[id] = "not in the log: version " + text
			}
		}
		left := time.Until(end)
		if len(missing) == 0 || left <= 0 {
			return missing, nil
		}
		r.progress("%d tasks have versions that are not in the log; they may be on their way, waiting up to %v", len(missing), left.Round(time.Second))
		if err := retry.Pause(ctx, min(left, 250*time.Millisecond)); err != nil {
			return nil, err
		}
		if err := r.readLog(ctx); err != nil {
			return nil, err
		}
	}
}

// report prints one line for each difference, in the order of the ids.
func (r *reconciliation) report(w io.Writer, missing, ahead map[string]string) error {
	differ := maps.Clone(missing)
	for id, text := range ahead {
		if differ[id] != "" {
			text = differ[id] + "; " + text
		}
		differ[id] = text
	}
	out := bufio.NewWriter(w)
	for _, id := range slices.Sorted(maps.Keys(differ)) {
		fmt.Fprintf(out, "task %s: %s\n", printable(id), differ[id]) // Flush returns the first error
	}
	if len(differ) == 0 {
		fmt.Fprintf(out, "ok: every version of %d tasks is in the log\n", len(r.tasks))
		return out.Flush()
	}
	return errors.Join(out.Flush(), fmt.Errorf("%d of %d tasks differ: %d miss versions in the log, %d are ahead of the API", len(differ), len(r.tasks), len(missing), len(ahead)))
}

// progress prints a line every two seconds at most.
func (r *reconciliation) progress(format string, args ...any) {
	r.tick.Do(func() { fmt.Fprintf(r.stderr, "reconcile: "+format+"\n", args...) })
}

// printable quotes an id that would disturb the list. It comes from the log,
// where anybody may have written anything.
func printable(id string) string {
	if quoted := strconv.Quote(id); id == "" || quoted != `"`+id+`"` {
		return quoted
	}
	return id
}
