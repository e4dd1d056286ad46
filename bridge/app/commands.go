package app

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/process"
)

// Commands are the subcommands of the bridge.
func Commands() []process.Sub {
	return []process.Sub{
		{Name: "init", Usage: initUsage, Run: initialize},
		{Name: "check", Run: check},
		{Name: "schema", Run: schema},
		{Name: "explain", Usage: "--event FILE", Run: explain},
		{Name: "dlq", Usage: "list|show|watch", Run: dlq},
		{Name: "pause", Usage: "--subscription NAME --reason TEXT", Run: pause},
		{Name: "resume", Usage: "--subscription NAME", Run: resume},
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

// dlq reads dead letters: list prints one line for each, show prints one of them
// in full, watch is a list that goes on with new ones until it is stopped.
func dlq(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	usage := process.Usagef("usage: bridge dlq list|show|watch [-topic TOPIC] [-offset N]")
	if len(args) == 0 {
		return usage
	}
	flags := flag.NewFlagSet("dlq "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	topic := flags.String("topic", "task-events-dlq", "the dead-letter topic")
	offset := flags.Int64("offset", -1, "for show: the dead letter's own offset, as printed by list")
	if err := flags.Parse(args[1:]); err != nil || flags.NArg() > 0 {
		return usage
	}
	var read func(client *kafkago.Client) error
	switch args[0] {
	case "list":
		read = func(client *kafkago.Client) error { return list(ctx, stdout, stderr, client, *topic) }
	case "show":
		if *offset < 0 {
			return process.Usagef("dlq show needs -offset N, as printed by dlq list")
		}
		read = func(client *kafkago.Client) error { return show(ctx, stdout, client, *topic, *offset) }
	case "watch":
		read = func(client *kafkago.Client) error { return watch(ctx, stdout, client, *topic) }
	default:
		return process.Usagef("unknown subcommand dlq %s: want list, show or watch", args[0])
	}
	cfg, err := FromEnv(lookup)
	if err != nil {
		return err
	}
	transport, err := kafka.NewTransport(cfg.Kafka)
	if err != nil {
		return err
	}
	defer transport.Close()
	return read(kafka.NewClient(cfg.Kafka, transport))
}

// letters calls f for each dead letter, see deadletter.Scan. The topic is looked
// up first, whose error says how to create a missing one.
func letters(ctx context.Context, client *kafkago.Client, topic string, follow bool, f func(deadletter.Stored) error) error {
	attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if _, err := kafka.Partitions(attempt, client, topic); err != nil {
		return err
	}
	return deadletter.Scan(ctx, client, topic, follow, f)
}

func list(ctx context.Context, stdout, stderr io.Writer, client *kafkago.Client, topic string) error {
	none := true
	err := letters(ctx, client, topic, false, func(s deadletter.Stored) error {
		none = false
		return printLine(stdout, s)
	})
	if err == nil && none {
		fmt.Fprintf(stderr, "no dead letters in topic %s\n", topic) // stdout is for the letters, and may be a pipe
	}
	return err
}

func watch(ctx context.Context, stdout io.Writer, client *kafkago.Client, topic string) error {
	err := letters(ctx, client, topic, true, func(s deadletter.Stored) error { return printLine(stdout, s) })
	if ctx.Err() != nil {
		return nil //nolint:nilerr // a signal is how a watch ends
	}
	return err
}

func printLine(w io.Writer, s deadletter.Stored) error {
	id := "-" // a malformed record has none
	if e, _, err := event.FromRecord(s.Record); err == nil {
		id = e.ID()
	}
	_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\tid %q\tfrom %s/%d@%d\tattempts %d\t%q\n", s.Offset, s.Letter.Last.UTC().Format(time.RFC3339), s.Letter.Subscription,
		s.Letter.Reason, id, s.Letter.Topic, s.Letter.Partition, s.Letter.Offset, s.Letter.Attempts, s.Letter.Error)
	return err
}

func show(ctx context.Context, w io.Writer, client *kafkago.Client, topic string, offset int64) error {
	found := false
	err := letters(ctx, client, topic, false, func(s deadletter.Stored) error {
		if s.Offset != offset {
			return nil
		}
		found = true
		headers := map[string]string{}
		for _, h := range s.Record.Headers {
			headers[h.Key] = string(h.Value)
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"offset": s.Offset, "key": string(s.Record.Key), "headers": headers, "value": string(s.Record.Value)})
	})
	if err == nil && !found {
		return fmt.Errorf("no dead letter at offset %d of topic %s", offset, topic)
	}
	return err
}
