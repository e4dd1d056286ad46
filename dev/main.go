// Command dev runs the whole of taskwire in one process: the four services and
// an embedded broker. It needs Go and nothing else.
//
//	go run ./dev [-data DIR] [-port-base N] [-version]
//
// It prints the addresses, the path of the audit log and one curl line to try;
// logs follow on stderr. Everything listens on 127.0.0.1 only. The sinks take posts
// from everyone on this machine and say so; with WEBHOOK_SECRET_FILE the bridge
// signs what it posts, and they take nothing else.
//
//	-data DIR      folder of the tasks, the broker's log and audit.log (./data);
//	               it survives a restart, and one instance at a time may use it
//	-port-base N   task API at N, bridge N+1, notifier N+2, auditor N+3, their
//	               operator ports 1000 higher, the broker at N+1092 (8000)
//	-version       print version, revision and Go release, and exit
//
// With KAFKA_BOOTSTRAP_SERVERS set, that cluster is used instead of the
// embedded broker. With DATABASE_URL=postgres://... the tasks are in that database
// instead of DIR/tasks.db, and with AUDIT_DATABASE_URL=postgres://... the audit log
// is in that one (AUDIT_SIGNING_KEY_FILE must name its key; auditor key --new makes
// one). With EVENT_ENCODING=avro and SCHEMA_REGISTRY_URL events are in Avro; dev runs
// no registry. The services read their other variables as usual (see each
// --help), except addresses and paths, which follow from the two flags.
//
// Ctrl-C or SIGTERM drains the task API, the bridge, the sinks and the broker,
// in this order, and exits 0; a second signal kills the process. Exit 1 is an
// error while starting or running, in one line; exit 2 is a wrong flag or setting.
//
// The embedded broker is for development. Run Apache Kafka for anything else.
package main

import (
	"context"
	_ "embed" // the manual
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/taskwire/taskwire/internal/build"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/stack"
)

//go:embed main.go
var source string

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal restores the default, so that a second one kills.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, lookup env.Lookup, stdout, stderr io.Writer) int {
	opts, err := options(args, lookup, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, process.Manual(source))
		return process.ExitOK
	case errors.Is(err, errVersion):
		fmt.Fprintln(stdout, build.Read().Line("dev"))
		return process.ExitOK
	case err != nil:
		return fail(stderr, err)
	}
	s, err := stack.Start(ctx, opts)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return process.ExitOK // stopped while starting
	}
	if err != nil {
		return fail(stderr, err)
	}
	welcome(stdout, s, opts)
	if err := s.Run(ctx); err != nil {
		return fail(stderr, err)
	}
	fmt.Fprintln(stdout, "Stopped. The state is in "+kept(s, opts)+".")
	return process.ExitOK
}

// errVersion is a command line that asks for the version only.
var errVersion = errors.New("version asked for")

// options turns the command line and the environment into the stack's options.
func options(args []string, lookup env.Lookup, stderr io.Writer) (stack.Options, error) {
	flags := flag.NewFlagSet("dev", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // fail prints the mistake
	data := flags.String("data", "data", "")
	base := flags.Int("port-base", 8000, "")
	version := flags.Bool("version", false, "")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return stack.Options{}, err
		}
		return stack.Options{}, process.Usagef("%v", err)
	}
	if *version {
		return stack.Options{}, errVersion
	}
	if flags.NArg() > 0 {
		return stack.Options{}, process.Usagef("unknown argument %q; dev takes -data, -port-base and -version", flags.Arg(0))
	}
	if *base < 1 || *base > 65535-1092 {
		return stack.Options{}, process.Usagef("-port-base: want 1 to %d, have %d", 65535-1092, *base)
	}
	format, level := process.LogSettings(lookup)
	settings := env.NewReader(lookup)
	if strings.HasPrefix(settings.String("DATABASE_URL", ""), "sqlite:") {
		settings.Fail("DATABASE_URL", "names a file, whose folder is that of -data here; unset it, or set postgres://USER@HOST:PORT/DATABASE")
	}
	return stack.Options{
		DataDir:  *data,
		PortBase: *base,
		Brokers:  settings.List("KAFKA_BOOTSTRAP_SERVERS", ""),
		Env:      lookup,

		Breakable: true,
		Log:       func(service string) *slog.Logger { return process.NewLogger(stderr, format, level, service) },
	}, settings.Err()
}

// fail prints one line for each mistake and chooses the exit status.
func fail(stderr io.Writer, err error) int {
	var usage *process.UsageError
	var settings *env.Error
	// The services name the variable of a taken port or file; here a flag decides.
	advice := strings.NewReplacer("set LISTEN_ADDR", "choose other ports with -port-base", "set OPS_ADDR", "choose other ports with -port-base",
		"set AUDIT_LOG_PATH to a new file", "choose another folder with -data",
		"is missing: EVENT_ENCODING is avro", "is missing: EVENT_ENCODING is avro (in a clone, go run ./internal/registrytest/registryd runs a registry)")
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(stderr, "dev: "+strings.TrimSuffix(advice.Replace(line), "\n"))
	}
	if errors.As(err, &usage) || errors.As(err, &settings) {
		return process.ExitUsage
	}
	return process.ExitFault
}

// kept says where everything is that a restart finds again.
func kept(s *stack.Stack, opts stack.Options) string {
	where := opts.DataDir
	if inDatabase(opts) {
		where += " and the database of DATABASE_URL"
	}
	if s.AuditLog() == "" {
		where += " and the database of AUDIT_DATABASE_URL"
	}
	return where
}

func inDatabase(opts stack.Options) bool {
	database, _ := opts.Env("DATABASE_URL")
	return database != ""
}

func welcome(w io.Writer, s *stack.Stack, opts stack.Options) {
	broker := "embedded, for development only"
	if len(opts.Brokers) > 0 {
		broker = "from KAFKA_BOOTSTRAP_SERVERS"
	}
	localhost := strings.NewReplacer("127.0.0.1", "localhost")
	url := func(service string) string { return localhost.Replace(s.URL(service)) }
	ops := func(service string) string { return localhost.Replace(s.OpsURL(service)) }
	tasks, log := absolute(filepath.Join(opts.DataDir, "tasks.db")), absolute(s.AuditLog())
	if inDatabase(opts) {
		tasks = "PostgreSQL, from DATABASE_URL"
	}
	if s.AuditLog() == "" {
		log = "PostgreSQL, from AUDIT_DATABASE_URL; go run ./auditor cat prints it"
	}
	schemas := ""
	if registry, _ := opts.Env("SCHEMA_REGISTRY_URL"); registry != "" {
		schemas = "  schemas    " + registry + " (from SCHEMA_REGISTRY_URL)\n"
	}
	fmt.Fprintf(w, `taskwire is running; Ctrl-C stops it.

  console    %-25s every event on its way; open it in a browser
  task API   %-25s (docs %sdocs, metrics %smetrics)
  bridge     %-25s (metrics %smetrics)
  notifier   %-25s (metrics %smetrics)
  auditor    %-25s (metrics %smetrics)
  Kafka      %s (%s)
%s  tasks      %s
  audit log  %s

Try:  curl -X POST %stasks -d '{"title": "Write the report"}'

`,
		url("bridge"), url("taskapi"), url("taskapi"), ops("taskapi"), url("bridge"), ops("bridge"), url("notifier"), ops("notifier"),
		url("auditor"), ops("auditor"), strings.Join(s.Brokers(), ","), broker, schemas, tasks, log, url("taskapi"))
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
