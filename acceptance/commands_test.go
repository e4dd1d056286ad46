package acceptance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/internal/retry"
)

// command is a command of the scripts; README.md describes each.
type command func(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error

func commands() map[string]func(*testscript.TestScript, bool, []string) {
	all := map[string]func(*testscript.TestScript, bool, []string){"curl": curlCommand, "times": times}
	scripted := map[string]command{
		"start": start, "terminate": terminate, "crash": crash, "restart": restart,
		"await": await, "produce": produce, "consume": consume, "committed": committed,
		"auditlog": auditlog, "status": status, "keep": keep, "replace": replace,
	}
	for script, class := range map[string]string{
		"bin/kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
		"bin/kafka-consumer-groups.sh":  "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
	} {
		scripted[script] = tool(script, class)
	}
	for name, run := range scripted {
		all[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("%s cannot be negated", name)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience())
			defer cancel()
			ts.Check(run(ctx, ts.Value(worldKey{}).(*world), ts, args))
		}
	}
	return all
}

// times N curl ... makes the same call N times.
func times(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || args[1] != "curl" {
		ts.Fatalf("usage: times N curl ...")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	for range n {
		curlCommand(ts, neg, args[2:])
	}
}

// named splits words into services, or all when none is named, and settings.
func named(args []string) (names []string, settings map[string]string, err error) {
	settings = map[string]string{}
	for _, arg := range args {
		if key, value, ok := strings.Cut(arg, "="); ok {
			settings[key] = value
			continue
		}
		if arg != broker && !slices.Contains(services(), arg) {
			return nil, nil, fmt.Errorf("unknown service %q", arg)
		}
		names = append(names, arg)
	}
	if names == nil {
		names = services()
	}
	return names, settings, nil
}

func start(ctx context.Context, w *world, _ *testscript.TestScript, args []string) error {
	names, settings, err := named(args)
	if err != nil {
		return err
	}
	for k, v := range settings {
		w.env[k] = v
	}
	if settings["EVENT_MODE"] != "" {
		delete(w.env, "EVENT_ENCODING") // the script is about another form
	}
	for _, name := range names {
		if err := w.system.start(name); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	for _, name := range names {
		if name == broker {
			continue
		}
		if err := poll(ctx, func() error { return w.healthy(ctx, name) }); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

// healthy returns nil when a service answers. One that has ended is fatal.
func (w *world) healthy(ctx context.Context, name string) error {
	if how, ended := w.system.ended(name); ended {
		return fatal(fmt.Errorf("the process ended: %s", how))
	}
	_, err := w.probe(ctx, name, "healthz")
	return err
}

func (w *world) probe(ctx context.Context, name, path string) (string, error) {
	i := slices.Index(services(), name)
	if i < 0 {
		return "", fatal(fmt.Errorf("unknown service %q", name))
	}
	code, body, err := get(ctx, "http://"+w.address(8000+i)+"/"+path)
	if err != nil {
		return "", err
	}
	if code != http.StatusOK {
		return body, fmt.Errorf("GET /%s = %d %s", path, code, body)
	}
	return body, nil
}

func get(ctx context.Context, url string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func terminate(_ context.Context, w *world, _ *testscript.TestScript, args []string) error {
	names, _, err := named(args)
	for _, name := range names {
		err = errors.Join(err, w.system.stop(name))
	}
	return err
}

func crash(_ context.Context, w *world, _ *testscript.TestScript, args []string) error {
	names, _, err := named(args)
	for _, name := range names {
		err = errors.Join(err, w.system.kill(name))
	}
	return err
}

func restart(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
	if err := terminate(ctx, w, ts, args); err != nil {
		return err
	}
	return start(ctx, w, ts, args)
}

// errFatal marks an error that will not go away.
var errFatal = errors.New("waiting will not help")

func fatal(err error) error { return fmt.Errorf("%w: %w", errFatal, err) }

// poll calls try until it succeeds, fails for good, or ctx ends.
func poll(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || errors.Is(err, errFatal) {
			return err
		}
		if !pause(ctx) {
			return fmt.Errorf("timed out: %w", err)
		}
	}
}

// pause is the time between two attempts; false when ctx has ended.
func pause(ctx context.Context) bool { return retry.Pause(ctx, 25*time.Millisecond) == nil }

// awaitForms are the conditions that await knows.
func awaitForms() []string {
	return []string{"audit N", "log NAME PATTERN [N]", "lag GROUP", "committed GROUP N", "ready NAME", "unready NAME PATTERN",
		"metric NAME [LABEL=VALUE ...] N", "end NAME"}
}

// await waits until a condition holds.
func await(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: await %s", strings.Join(awaitForms(), " | "))
	}
	try, err := condition(ctx, w, args[0], args[1:])
	if err != nil {
		return err
	}
	return poll(ctx, try)
}

func condition(ctx context.Context, w *world, what string, args []string) (func() error, error) {
	subject := args[0]
	switch {
	case what == "audit" && len(args) == 1:
		n, err := strconv.Atoi(subject)
		return func() error { return w.auditLines(n) }, err
	case what == "log" && (len(args) == 2 || len(args) == 3):
		return w.logHas(subject, args[1], args[2:])
	case what == "lag" && len(args) == 1:
		return func() error { return w.lagIs(ctx, subject, -1) }, nil
	case what == "committed" && len(args) == 2:
		n, err := strconv.ParseInt(args[1], 10, 64)
		return func() error { return w.lagIs(ctx, subject, n) }, err
	case what == "ready" && len(args) == 1:
		return func() error { _, err := w.probe(ctx, subject, "readyz"); return err }, nil
	case what == "unready" && len(args) == 2:
		return func() error { return w.unready(ctx, subject, args[1]) }, nil
	case what == "metric":
		m, err := parseMetric(args)
		return func() error { return w.metric(ctx, m) }, err
	case what == "end" && len(args) == 1:
		return func() error {
			if _, ended := w.system.ended(subject); !ended {
				return fmt.Errorf("%s is still running", subject)
			}
			return nil
		}, nil
	}
	return nil, fmt.Errorf("await %s %s: want one of %s", what, strings.Join(args, " "), strings.Join(awaitForms(), " | "))
}

// auditText returns the audit log, from its file or as the auditor prints it.
func (w *world) auditText() ([]byte, error) {
	path := filepath.Join(w.data, "audit.log")
	if s, ok := w.system.(interface{ fetchAudit(path string) error }); ok {
		if err := s.fetchAudit(path); err != nil {
			return nil, err
		}
	}
	return os.ReadFile(path)
}

func (w *world) auditLines(n int) error {
	text, err := w.auditText()
	if err != nil {
		return err
	}
	got := bytes.Count(text, []byte("\n"))
	if got == n {
		return nil
	}
	err = fmt.Errorf("the audit log has %d lines, want %d", got, n)
	if got > n {
		return fatal(err) // no line is ever removed
	}
	return err
}

// logHas waits for a message in a service's log, at least once or exactly n times.
func (w *world) logHas(name, pattern string, count []string) (func() error, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, err
	}
	want := 0
	if len(count) > 0 {
		if want, err = strconv.Atoi(count[0]); err != nil {
			return nil, err
		}
	}
	return func() error {
		got, err := w.messages(name, re)
		switch {
		case err != nil:
			return err
		case want > 0 && got > want:
			return fatal(fmt.Errorf("%s logged %q %d times, want %d", name, pattern, got, want))
		case got < max(want, 1):
			return fmt.Errorf("%s logged %q %d times, want %d", name, pattern, got, max(want, 1))
		}
		return nil
	}, nil
}

// messages counts the log lines that match, in the message or in the whole line.
func (w *world) messages(name string, re *regexp.Regexp) (int, error) {
	text, err := os.ReadFile(w.logFile(name))
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		var record struct{ Msg string }
		if json.Unmarshal([]byte(line), &record) == nil && re.MatchString(record.Msg) || re.MatchString(line) {
			n++
		}
	}
	return n, nil
}

// lagIs compares the group's committed offset with want; -1 is the end of the topic.
func (w *world) lagIs(ctx context.Context, group string, want int64) error {
	offset, lag, err := w.committed(ctx, group, "task-events")
	switch {
	case err != nil:
		return err
	case want < 0 && lag != 0:
		return fmt.Errorf("group %s has committed %d, lag %d, want lag 0", group, offset, lag)
	case want >= 0 && offset != want:
		return fmt.Errorf("group %s has committed %d, want %d", group, offset, want)
	}
	return nil
}

func (w *world) unready(ctx context.Context, name, pattern string) error {
	body, err := w.probe(ctx, name, "readyz")
	if err == nil {
		return fmt.Errorf("%s is ready, want unready", name)
	}
	if ok, reErr := regexp.MatchString(pattern, body); reErr != nil || !ok {
		return fmt.Errorf("%s is not ready for another reason than %q: %w", name, pattern, errors.Join(err, reErr))
	}
	return nil
}

// produce KEY FILE [HEADER:VALUE ...] writes one raw record; FILE - is a tombstone.
func produce(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: produce KEY FILE [HEADER:VALUE ...]")
	}
	r := &kgo.Record{Topic: "task-events", Key: []byte(args[0])}
	if args[1] != "-" {
		r.Value = []byte(strings.TrimSuffix(ts.ReadFile(args[1]), "\n"))
	}
	for _, h := range args[2:] {
		name, value, _ := strings.Cut(h, ":")
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	return w.produce(ctx, r)
}

// consume [-headers] TOPIC N prints the topic from its beginning once it has N records.
func consume(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
	whole := len(args) > 0 && args[0] == "-headers"
	if whole {
		args = args[1:]
	}
	if len(args) != 2 {
		return errors.New("usage: consume [-headers] TOPIC N")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	records, err := w.consume(ctx, args[0], n)
	if err != nil {
		return err
	}
	for i := range records {
		records[i] = asJSON(records[i])
	}
	printRecords(ts.Stdout(), records, whole)
	return nil
}

// committed GROUP prints the group's committed offset of task-events.
func committed(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: committed GROUP")
	}
	offset, lag, err := w.committed(ctx, args[0], "task-events")
	if err != nil {
		return err
	}
	fmt.Fprintf(ts.Stdout(), "%s committed=%d lag=%d\n", args[0], offset, lag)
	return nil
}

// status N PROGRAM ... runs a program that must exit with N.
func status(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: status N PROGRAM [ARG ...]")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	words := append([]string{args[1]}, args[2:]...)
	if s, ok := w.system.(interface{ inside(words []string) []string }); ok {
		words = s.inside(words)
	}
	env := []string{}
	for _, key := range []string{"PATH", "TASKWIRE_ROOT", "TASKWIRE_PORT_BASE", "KAFKA_BOOTSTRAP_SERVERS", "LOG_FORMAT"} {
		env = append(env, key+"="+ts.Getenv(key))
	}
	for strings.Contains(words[0], "=") && len(words) > 1 { // as in: status 2 KEY=VALUE taskapi
		env, words = append(env, words[0]), words[1:]
	}
	path, err := exec.LookPath(words[0])
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, words[1:]...)
	cmd.Dir, cmd.Env = ts.MkAbs("."), env
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return err
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		return fmt.Errorf("%s: exit status %d, want %d", strings.Join(words, " "), got, want)
	}
	return nil
}

// keep VAR MEMBER sets $VAR to a member of the JSON object last printed.
func keep(_ context.Context, _ *world, ts *testscript.TestScript, args []string) error {
	if len(args) != 2 {
		return errors.New("usage: keep VAR MEMBER")
	}
	text := ts.ReadFile("stdout")
	if _, body, ok := strings.Cut(text, "\n\n"); ok { // curl -i prints the header first
		text = body
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		return fmt.Errorf("last output is not a JSON object: %w", err)
	}
	value, ok := object[args[1]]
	if !ok {
		return fmt.Errorf("last output has no member %q", args[1])
	}
	ts.Setenv(args[0], fmt.Sprint(value))
	return nil
}

// replace FILE OLD NEW puts a value that was not known before into a file.
func replace(_ context.Context, _ *world, ts *testscript.TestScript, args []string) error {
	if len(args) != 3 {
		return errors.New("usage: replace FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		return fmt.Errorf("%s does not contain %s", args[0], args[1])
	}
	return os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600)
}
