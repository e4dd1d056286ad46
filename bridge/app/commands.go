package app

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/process"
)

// Commands are the subcommands of the bridge.
func Commands() []process.Sub {
	return []process.Sub{
		{Name: "init", Usage: initUsage, Run: initialize},
		{Name: "check", Run: check},
		{Name: "schema", Run: schema},
		{Name: "explain", Usage: "--event FILE", Run: explain},
		{Name: "dlq", Usage: "list|show|watch|redrive|ignore", Run: dlq},
		{Name: "pause", Usage: "--subscription NAME --reason TEXT", Run: pause},
		{Name: "resume", Usage: "--subscription NAME", Run: resume},
		{Name: "top", Usage: "[--interval 2s] [--once]", Run: top},
		{Name: "offsets", Usage: "accept --subscription NAME", Run: offsets},
		{Name: "skip", Usage: "--subscription NAME --partition N --offset N --reason TEXT", Run: skip},
	}
}

// check reads the configuration and prints it with defaults filled in.
func check(_ context.Context, lookup env.Lookup, args []string, stdout, _ io.Writer) error {
	if len(args) > 0 {
		return process.Usagef("check takes no argument; it reads BRIDGE_CONFIG")
	}
	cfg, err := FromEnv(lookup)
	if err != nil {
		return err
	}
	text, err := cfg.text()
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// explain prints which subscriptions get an event, and why the others do not.
func explain(_ context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("event", "", "file with one CloudEvent in JSON; - for standard input")
	if err := flags.Parse(args); err != nil || *path == "" || flags.NArg() > 0 {
		return process.Usagef("usage: bridge explain --event FILE")
	}
	cfg, err := FromEnv(lookup)
	if err != nil {
		return err
	}
	body, err := readEvent(*path)
	if err != nil {
		return err
	}
	e, _, err := event.FromRecord(event.Record{Value: body, Headers: []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}}})
	if err != nil {
		if e, _, err = event.FromRecord(event.Record{Value: body}); err != nil {
			return fmt.Errorf("malformed event, it would be a dead letter of every subscription: %w", err)
		}
	}
	for _, s := range cfg.Subscriptions {
		if why := filter.Why(s.filters(), e); why != "" {
			fmt.Fprintf(stdout, "%s: no, the event does not pass %s\n", s.Name, why)
			continue
		}
		fmt.Fprintf(stdout, "%s: yes, to %s\n", s.Name, deliver.Shown(s.Sink))
	}
	return nil
}

func readEvent(path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(path)
}
