// Package process is what the main of every service shares: the manual, the
// version, the logger, signals and the exit status. It has the only os.Exit.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/taskwire/taskwire/internal/build"
	"github.com/taskwire/taskwire/internal/env"
)

// Exit statuses, the same for every program.
const (
	ExitOK    = 0
	ExitFault = 1 // an error while starting or running; the last log line has it
	ExitUsage = 2 // a wrong setting, argument or subcommand; nothing was opened
)

// Service is what New of each service returns. Run serves until ctx ends, then
// drains, and returns nil when the drain was clean.
type Service interface {
	Run(ctx context.Context) error
	Addr() net.Addr
}

// Reloader is a service that reads its configuration again when SIGHUP asks for it.
// For any other service the signal ends the process.
type Reloader interface {
	Reload() // must not block
}

// Sub is a subcommand. When Run fails the program exits with ExitFault, or with
// ExitUsage when the error is a *UsageError or an *env.Error.
type Sub struct {
	Name  string
	Usage string // arguments, as shown in the list of subcommands
	Run   func(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error
}

// UsageError is a mistake on the command line.
type UsageError struct{ Message string }

func (e *UsageError) Error() string { return e.Message }

// Usagef makes a *UsageError.
func Usagef(format string, args ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, args...)}
}

// Main runs the service called name. source is the program's own main.go: its
// package comment is the manual that --help prints, so that `go doc` and --help
// never differ. Main does not return.
func Main[C any, S Service](name, source string, fromEnv func(env.Lookup) (C, error),
	open func(context.Context, C, *slog.Logger) (S, error), subs ...Sub) {
	p := program[C, S]{name: name, manual: Manual(source), fromEnv: fromEnv, open: open, subs: subs}
	os.Exit(p.run(os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

type program[C any, S Service] struct {
	name, manual string
	fromEnv      func(env.Lookup) (C, error)
	open         func(context.Context, C, *slog.Logger) (S, error)
	subs         []Sub
}

func (p program[C, S]) run(args []string, lookup env.Lookup, stdout, stderr io.Writer) int {
	// The first signal asks for a drain. It also restores the default, so that a
	// second one kills the process.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer context.AfterFunc(ctx, stop)()
	defer stop()

	if len(args) == 0 {
		return p.serve(ctx, lookup, stderr)
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		fmt.Fprint(stdout, p.manual)
		return ExitOK
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, build.Read().Line(p.name))
		return ExitOK
	}
	for _, sub := range p.subs {
		if sub.Name == args[0] {
			return status(p.name+" "+sub.Name, sub.Run(ctx, lookup, args[1:], stdout, stderr), stderr)
		}
	}
	return status(p.name, Usagef("unknown subcommand %q; known: %s (settings come from the environment, see %s --help)",
		args[0], p.known(), p.name), stderr)
}

func (p program[C, S]) known() string {
	names := []string{"(none, to serve)", "help", "version"}
	for _, sub := range p.subs {
		names = append(names, strings.TrimSpace(sub.Name+" "+sub.Usage))
	}
	return strings.Join(names, ", ")
}

// serve reads the settings first and opens nothing when one of them is wrong.
func (p program[C, S]) serve(ctx context.Context, lookup env.Lookup, stderr io.Writer) int {
	format, level := LogSettings(lookup)
	log := NewLogger(stderr, format, level, p.name)
	hangups := make(chan os.Signal, 1)
	var kind S
	if _, ok := any(kind).(Reloader); ok {
		signal.Notify(hangups, syscall.SIGHUP) // from the start: one that comes while opening must not kill
		defer signal.Stop(hangups)
	}
	cfg, err := p.fromEnv(lookup)
	if err != nil {
		return status(p.name, err, stderr)
	}
	limitMemory(log)
	service, err := p.open(ctx, cfg, log)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		log.Info("stopped while starting")
		return ExitOK // nothing is served yet, so there is nothing to drain
	}
	if err != nil {
		log.Error("cannot start", "err", err)
		return ExitFault
	}
	defer reloads(service, hangups)()
	if err := service.Run(ctx); err != nil {
		log.Error("service failed", "err", err)
		return ExitFault
	}
	log.Info("stopped")
	return ExitOK
}

// reloads passes hangups on to a service that is a Reloader, until stop.
func reloads(service any, hangups chan os.Signal) (stop func()) {
	r, ok := service.(Reloader)
	if !ok {
		return func() {}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range hangups {
			r.Reload()
		}
	})
	return func() {
		signal.Stop(hangups)
		close(hangups)
		wg.Wait()
	}
}

// status prints err, one line for each mistake, and chooses the exit status.
func status(who string, err error, stderr io.Writer) int {
	var usage *UsageError
	var settings *env.Error
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &settings):
		for _, m := range settings.Mistakes {
			fmt.Fprintf(stderr, "%s: %s\n", who, m)
		}
		return ExitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %s\n", who, usage.Message)
		return ExitUsage
	}
	fmt.Fprintf(stderr, "%s: %v\n", who, err)
	return ExitFault
}

// Manual returns the text of the package comment at the top of a Go source file.
func Manual(source string) string {
	comment, _, _ := strings.Cut(source, "\npackage ")
	var b strings.Builder
	for line := range strings.SplitSeq(comment, "\n") {
		if text, ok := strings.CutPrefix(line, "//"); ok && !strings.HasPrefix(text, "go:") {
			b.WriteString(strings.TrimPrefix(text, " ") + "\n")
		}
	}
	return b.String()
}
