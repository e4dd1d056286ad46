package app

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	"github.com/taskwire/taskwire/bridge/internal/fetch"
	"github.com/taskwire/taskwire/bridge/internal/seal"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/secretfile"
)

const dlqUsage = "usage: bridge dlq list|watch [--subscription NAME] [--done] [selection], bridge dlq show ID|PARTITION/OFFSET, " +
	"bridge dlq redrive|ignore --subscription NAME selection|--all; with --help each shows its flags"

// dlq is what operators do with dead letters. list, show and watch read Kafka
// themselves, so that they work while no bridge does; redrive and ignore ask a
// running bridge.
func dlq(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return process.Usagef(dlqUsage)
	}
	switch args[0] {
	case "list", "show", "watch":
		return dlqRead(ctx, lookup, args, stdout, stderr)
	case "redrive", "ignore":
		return dlqJob(ctx, lookup, args, stdout, stderr)
	}
	return process.Usagef("unknown subcommand dlq %s; %s", args[0], dlqUsage)
}

func dlqRead(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("dlq "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	b := &letterbox{states: map[string][]deadletter.Position{}}
	flags.StringVar(&b.topic, "topic", "", "the dead-letter topic; without it those of all subscriptions")
	flags.StringVar(&b.subscription, "subscription", "", "only its letters")
	flags.BoolVar(&b.done, "done", false, "also letters that are dealt with")
	selectFlags(flags, &b.chosen, true)
	rest, err := parseMixed(flags, args[1:])
	if err != nil || len(rest) > 1 || (args[0] == "show") != (len(rest) == 1) {
		return process.Usagef(dlqUsage)
	}
	if err := b.chosen.Check(); err != nil {
		return process.Usagef("%v", err)
	}
	closed, err := b.open(lookup)
	if err != nil {
		return err
	}
	defer closed()
	switch args[0] {
	case "show":
		return b.show(ctx, rest[0], stdout)
	case "watch":
		return b.watch(ctx, stdout)
	}
	return b.list(ctx, stdout, stderr)
}

// parseMixed lets flags follow arguments.
func parseMixed(flags *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return rest, nil
		}
		rest, args = append(rest, flags.Arg(0)), flags.Args()[1:]
	}
}

// letterbox reads dead letters, each with the state of its own subscription.
type letterbox struct {
	topic, subscription string
	done                bool
	chosen              deadletter.Selection

	cfg    Config
	client *kafkago.Client
	keys   seal.Keys

	mu     sync.Mutex
	states map[string][]deadletter.Position // by group and topic
}

func (b *letterbox) open(lookup env.Lookup) (closed func(), err error) {
	if b.cfg, err = FromEnv(lookup); err != nil {
		return nil, err
	}
	if b.subscription != "" && !slices.ContainsFunc(b.cfg.Subscriptions, func(s Subscription) bool { return s.Name == b.subscription }) {
		return nil, process.Usagef("no subscription is called %q", b.subscription)
	}
	if b.cfg.StateKeyFile != "" {
		file, err := secretfile.Open(b.cfg.StateKeyFile, seal.Parse, discard())
		if err != nil {
			return nil, fmt.Errorf("BRIDGE_STATE_KEY_FILE: %w", err)
		}
		b.keys = file.Get()
	}
	transport, err := kafka.NewTransport(b.cfg.Kafka)
	if err != nil {
		return nil, err
	}
	b.client = kafka.NewClient(b.cfg.Kafka, transport)
	return transport.Close, nil
}

func (b *letterbox) topics() []string {
	if b.topic != "" {
		return []string{b.topic}
	}
	var topics []string
	for _, s := range b.cfg.Subscriptions {
		if (b.subscription == "" || s.Name == b.subscription) && !slices.Contains(topics, s.DeadLetter) {
			topics = append(topics, s.DeadLetter)
		}
	}
	return topics
}

// group is the one of a subscription that is configured, or else the one that
// the letter names.
func (b *letterbox) group(l deadletter.Letter) string {
	for _, s := range b.cfg.Subscriptions {
		if s.Name == l.Subscription {
			return s.Group
		}
	}
	return l.Group
}

// isDone reports whether a letter is dealt with.
func (b *letterbox) isDone(ctx context.Context, topic string, l deadletter.Stored) (bool, error) {
	group := b.group(l.Letter)
	if group == "" {
		return false, nil
	}
	name := group + "\x00" + topic
	if _, known := b.states[name]; !known {
		state, err := deadletter.Positions(ctx, b.client, deadletter.Group(group), topic, b.keys)
		if err != nil {
			return false, err
		}
		b.states[name] = state
	}
	state := b.states[name]
	return l.Partition < len(state) && state[l.Partition].Done(l.Offset), nil
}

// each calls f for each letter that is wanted, up to the end of the topic or,
// with follow, until ctx ends.
func (b *letterbox) each(ctx context.Context, topic string, p deadletter.Position, follow bool, f func(l deadletter.Stored, done bool) error) error {
	r := deadletter.Range{Topic: topic, Partition: p.Partition, From: p.First, To: p.End}
	if follow {
		r.To = deadletter.Follow
	}
	_, err := deadletter.Scan(ctx, b.client, r, func(rec fetch.Record) error {
		l, ok := deadletter.FromRecord(p.Partition, rec)
		if !ok || (b.subscription != "" && l.Letter.Subscription != b.subscription) {
			return nil
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		done, err := b.isDone(ctx, topic, l)
		if err != nil || (done && !b.done) || !b.chosen.Match(l) {
			return err
		}
		return f(l, done)
	})
	return err
}

// bounds are the partitions of a topic. A missing topic's error says how to create it.
func (b *letterbox) bounds(ctx context.Context, topic string) ([]deadletter.Position, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	return deadletter.Bounds(ctx, b.client, topic)
}

func (b *letterbox) list(ctx context.Context, stdout, stderr io.Writer) error {
	for _, topic := range b.topics() {
		partitions, err := b.bounds(ctx, topic)
		if err != nil {
			return err
		}
		none := true
		for _, p := range partitions {
			err := b.each(ctx, topic, p, false, func(l deadletter.Stored, done bool) error {
				none = false
				return printLine(stdout, l, done)
			})
			if err != nil {
				return err
			}
		}
		if none {
			fmt.Fprintf(stderr, "no open dead letters in topic %s\n", topic) // stdout is for the letters, and may be a pipe
		}
		if err := b.warn(ctx, topic, stderr); err != nil {
			return err
		}
	}
	return nil
}

// warn says what the list cannot show.
func (b *letterbox) warn(ctx context.Context, topic string, stderr io.Writer) error {
	for _, s := range b.cfg.Subscriptions {
		if s.DeadLetter != topic || (b.subscription != "" && s.Name != b.subscription) {
			continue
		}
		state, err := deadletter.Positions(ctx, b.client, deadletter.Group(s.Group), topic, b.keys)
		if err != nil {
			return err
		}
		var expired int64
		for _, p := range state {
			expired += p.Expired()
			if p.Wrong != nil {
				fmt.Fprintf(stderr, "%s: all letters of partition %d are shown as open: %v\n", s.Name, p.Partition, p.Wrong)
			}
		}
		if expired > 0 {
			fmt.Fprintf(stderr, "%s: the topic's retention has deleted up to %d letters that nobody had dealt with\n", s.Name, expired)
		}
	}
	return nil
}

func (b *letterbox) watch(ctx context.Context, stdout io.Writer) error {
	watching, all := errgroup.WithContext(ctx)
	for _, topic := range b.topics() {
		partitions, err := b.bounds(ctx, topic)
		if err != nil {
			return err
		}
		for _, p := range partitions {
			watching.Go(func() error {
				return b.each(all, topic, p, true, func(l deadletter.Stored, done bool) error { return printLine(stdout, l, done) })
			})
		}
	}
	err := watching.Wait()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // a signal is how a watch ends
	}
	return err
}

func printLine(w io.Writer, l deadletter.Stored, done bool) error {
	id := "-" // a malformed record has none
	if l.ID != "" {
		id = l.ID
	}
	state := "open"
	if done {
		state = "done"
	}
	_, err := fmt.Fprintf(w, "%s\t%s\t%s\t%q\t%s\tstatus %d\tid %q\ttype %q\tkey %q\tfrom %q/%d@%d\tattempts %d\tredrives %d\t%q\n", l.Place(), state,
		l.Letter.Last.UTC().Format(time.RFC3339), l.Letter.Subscription, reason(l.Letter.Reason), l.Letter.Status, id, l.Type, string(l.Record.Key),
		l.Letter.Topic, l.Letter.Partition, l.Letter.Offset, l.Letter.Attempts, l.Letter.Redrives, l.Letter.Error)
	return err
}

// reason is safe for a terminal: whoever may write to the topic chooses the headers.
func reason(s string) string {
	if slices.Contains(deadletter.Reasons(), s) {
		return s
	}
	return fmt.Sprintf("%q", s)
}

// show prints the letters with an id, which may be several, or the one at a place.
func (b *letterbox) show(ctx context.Context, which string, stdout io.Writer) error {
	b.done = true
	found := false
	for _, topic := range b.topics() {
		partitions, err := b.bounds(ctx, topic)
		if err != nil {
			return err
		}
		for _, p := range partitions {
			var partition int
			var offset int64
			var tail string
			if n, _ := fmt.Sscanf(which, "%d/%d%s", &partition, &offset, &tail); n == 2 { // it stands at one place: no need to read the rest
				if partition != p.Partition {
					continue
				}
				p.First, p.End = max(p.First, offset), min(p.End, offset+1)
			}
			err := b.each(ctx, topic, p, false, func(l deadletter.Stored, done bool) error {
				if l.ID != which && l.Place() != which {
					return nil
				}
				found = true
				return printLetter(stdout, topic, l, done)
			})
			if err != nil {
				return err
			}
		}
	}
	if !found {
		return fmt.Errorf("no dead letter %s in %s", which, strings.Join(b.topics(), ", "))
	}
	return nil
}
