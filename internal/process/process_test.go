package process

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
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
	fault := errors.New("disk gone")
	for name, c := range map[string]struct {
		p      program[struct{}, service]
		args   []string
		status int
		out    string
	}{
		"clean run":           {sample(ok, nil, nil), nil, ExitOK, "stopped"},
		"fault while running": {sample(func(context.Context) error { return fault }, nil, nil), nil, ExitFault, "disk gone"},
		"cannot open":         {sample(ok, nil, fault), nil, ExitFault, "cannot start: disk gone"},
		"wrong settings":      {sample(ok, &env.Error{Mistakes: []string{"A: bad", "B: bad"}}, nil), nil, ExitUsage, "sample: A: bad\nsample: B: bad\n"},
		"help":                {sample(ok, nil, nil), []string{"--help"}, ExitOK, "the manual"},
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

func TestALineFeedInATitleStaysInOneLine(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		var out bytes.Buffer
		NewLogger(&out, format, "info", "notifier").Info("New task - 'a\nb\x1b[31m'", "task_id", "x\ny")
		if n := strings.Count(out.String(), "\n"); n != 1 || strings.Contains(out.String(), "\x1b[31m'") {
			t.Errorf("%s: %d lines in %q, want 1 without escape codes", format, n, out.String())
		}
	}
}

func TestManualIsThePackageComment(t *testing.T) {
	got := Manual("// Command x does y.\n//\n// It reads Z.\npackage main\n\n// not this\n")
	if want := "Command x does y.\n\nIt reads Z.\n"; got != want {
		t.Errorf("Manual = %q, want %q", got, want)
	}
}
