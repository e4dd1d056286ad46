package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/taskwire/taskwire/internal/env"
)

type service struct{ run func(context.Context) error }

func (s service) Run(ctx context.Context) error { return s.run(ctx) }
func (s service) Addr() net.Addr                { return nil }

func sample(run func(context.Context) error, settings, opening error) program[struct{}, service] {
	return program[struct{}, service]{
		name: "sample", manual: "the manual\n",
		fromEnv: func(env.Lookup) (struct{}, error) { return struct{}{}, settings },
		open: func(context.Context, struct{}, *slog.Logger) (service, error) {
			return service{run}, opening
		},
		subs: []Sub{{Name: "check", Run: func(_ context.Context, _ env.Lookup, args []string, out, _ io.Writer) error {
			if len(args) > 0 {
				return Usagef("check takes no argument")
			}
			_, err := io.WriteString(out, "fine\n")
			return err
		}}},
	}
}

func TestExitStatus(t *testing.T) {
	ok := func(context.Context) error { return nil }
	failed := errors.New("disk gone")
	for name, c := range map[string]struct {
		p      program[struct{}, service]
		args   []string
		status int
		out    string
	}{
		"clean run":           {sample(ok, nil, nil), nil, ExitOK, "stopped"},
		"error while running": {sample(func(context.Context) error { return failed }, nil, nil), nil, ExitFault, `"msg":"service failed","service":"sample","err":"disk gone"`},
		"cannot open":         {sample(ok, nil, failed), nil, ExitFault, `"msg":"cannot start","service":"sample","err":"disk gone"`},
		"wrong settings":      {sample(ok, &env.Error{Mistakes: []string{"A: bad", "B: bad"}}, nil), nil, ExitUsage, "sample: A: bad\nsample: B: bad\n"},
		"help":                {sample(ok, nil, nil), []string{"--help"}, ExitOK, "the manual"},
		"version":             {sample(ok, nil, nil), []string{"--version"}, ExitOK, ", " + runtime.Version() + " "},
		"subcommand":          {sample(ok, nil, nil), []string{"check"}, ExitOK, "fine"},
		"subcommand misused":  {sample(ok, nil, nil), []string{"check", "x"}, ExitUsage, "sample check: check takes no argument"},
		"unknown subcommand":  {sample(ok, nil, nil), []string{"serv"}, ExitUsage, `unknown subcommand "serv"`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			got := c.p.run(c.args, env.Map(nil), &out, &out)
			if got != c.status || !strings.Contains(out.String(), c.out) {
				t.Errorf("exit %d with %q, want %d with %q", got, out.String(), c.status, c.out)
			}
		})
	}
}

func TestSIGTERMEndsRunsContext(t *testing.T) {
	p := sample(func(ctx context.Context) error {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}, nil, nil)
	if got := p.run(nil, env.Map(nil), io.Discard, io.Discard); got != ExitOK {
		t.Errorf("exit %d, want 0", got)
	}
}

// reloadable counts what SIGHUP asks of it.
type reloadable struct {
	service
	asked chan struct{}
}

func (r reloadable) Reload() { r.asked <- struct{}{} }

// TestSIGHUPReloads: also one that comes while the service opens is not lost, and
// does not end the process.
func TestSIGHUPReloads(t *testing.T) {
	hangUp := func() error { return syscall.Kill(syscall.Getpid(), syscall.SIGHUP) }
	r := reloadable{asked: make(chan struct{}, 8)}
	r.service = service{run: func(context.Context) error {
		<-r.asked
		if err := hangUp(); err != nil {
			return err
		}
		<-r.asked
		return nil
	}}
	p := program[struct{}, reloadable]{
		fromEnv: func(env.Lookup) (struct{}, error) { return struct{}{}, nil },
		open:    func(context.Context, struct{}, *slog.Logger) (reloadable, error) { return r, hangUp() },
	}
	if got := p.run(nil, env.Map(nil), io.Discard, io.Discard); got != ExitOK {
		t.Errorf("exit %d, want 0", got)
	}
}

// A service may be stopped while it loads. Another error at that moment is still
// an error.
func TestSIGTERMWhileOpening(t *testing.T) {
	damage := errors.New("damaged at byte 7")
	for want, opening := range map[int]func(context.Context) error{
		ExitOK:    func(ctx context.Context) error { return fmt.Errorf("load: %w", ctx.Err()) },
		ExitFault: func(context.Context) error { return damage },
	} {
		p := sample(nil, nil, nil)
		p.open = func(ctx context.Context, _ struct{}, _ *slog.Logger) (service, error) {
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
				return service{}, err
			}
			<-ctx.Done()
			return service{}, opening(ctx)
		}
		if got := p.run(nil, env.Map(nil), io.Discard, io.Discard); got != want {
			t.Errorf("exit %d, want %d", got, want)
		}
	}
}

func TestALineFeedInATitleStaysInOneLine(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		NewLogger(&out, format, "info", "notifier").Info("New task - 'a\nb\x1b[31m'", "task_id", "x\ny")
		if n := strings.Count(out.String(), "\n"); n != 1 || strings.Contains(out.String(), "\x1b[31m'") {
			t.Errorf("%s: %d lines in %q, want 1 without escape codes", format, n, out.String())
		}
	}
}

// A title from elsewhere can reorder a terminal's line, break it in a viewer, or
// hide; text logs show such characters by their numbers.
func TestTextLogsShowWhatDeceives(t *testing.T) {
	for _, r := range "\u202e\u202a\u2066\u2069\u2028\u2029\u200b\u2060\ufeff\u00ad\u0085\u009b" {
		var out bytes.Buffer
		title := "a" + string(r) + "b"
		NewLogger(&out, "text", "info", "notifier").Info("New task - '"+title+"'", "title", title) //nolint:sloglint // a message with a title, as the contract has it
		if strings.ContainsRune(out.String(), r) {
			t.Errorf("%U is written as it is: %q", r, out.String())
		}
	}
	var out bytes.Buffer
	const plain = "Größe 👨\u200d👩 می\u200cخواهم"
	NewLogger(&out, "text", "info", "notifier").Info(plain)
	if !strings.Contains(out.String(), plain) {
		t.Errorf("an honest message is escaped: %q", out.String())
	}
}

func TestManualIsThePackageComment(t *testing.T) {
	got := Manual("// Command x does y.\n//\n// It reads Z.\npackage main\n\n// not this\n")
	if want := "Command x does y.\n\nIt reads Z.\n"; got != want {
		t.Errorf("Manual = %q, want %q", got, want)
	}
}
