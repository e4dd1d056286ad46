package app

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// Only a member of the group can do a repair while the group is active, so these
// commands call the admin API of the bridge that has the partition.

const (
	acceptUsage = "usage: bridge offsets accept --subscription NAME [--partition N] [--by NAME] [--admin URL]"
	skipUsage   = "usage: bridge skip --subscription NAME --partition N --offset N --reason TEXT [--by NAME] [--admin URL]"
)

// offsets accepts stored offsets that the bridge has not sealed.
func offsets(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 || args[0] != "accept" {
		return process.Usagef(acceptUsage)
	}
	c := newRepair("offsets accept", lookup, stderr)
	if err := c.flags.Parse(args[1:]); err != nil || c.flags.NArg() > 0 || c.subscription == "" {
		return process.Usagef(acceptUsage)
	}
	in := admin.AcceptRequest{By: c.by}
	if c.isSet("partition") {
		in.Partition = &c.partition
	}
	var out struct{ Accepted []pump.Accepted }
	if err := c.post(ctx, "offsets/accept", in, &out); err != nil {
		return err
	}
	for _, a := range out.Accepted {
		fmt.Fprintf(stdout, "partition %d goes on from offset %d\n", a.Partition, a.Offset)
	}
	return nil
}

// skip sets one event aside that holds others back.
func skip(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	c := newRepair("skip", lookup, stderr)
	offset := c.flags.Int64("offset", 0, "of the event, as GET /subscriptions shows it under blocking")
	reason := c.flags.String("reason", "", "why; it is kept with the dead letter and told to the sink")
	if err := c.flags.Parse(args); err != nil || c.flags.NArg() > 0 || c.subscription == "" || *reason == "" || !c.isSet("partition") || !c.isSet("offset") {
		return process.Usagef(skipUsage)
	}
	err := c.post(ctx, "skip", admin.SkipRequest{Partition: &c.partition, Offset: offset, Reason: *reason, By: c.by}, &struct{}{})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "offset %d of partition %d is a dead letter now; bridge dlq list shows it\n", *offset, c.partition)
	return nil
}

// repair is what both commands have in common.
type repair struct {
	flags            *flag.FlagSet
	api              *adminAPI
	subscription, by string
	partition        int
}

func newRepair(name string, lookup env.Lookup, stderr io.Writer) *repair {
	r := env.NewReader(lookup)
	c := &repair{flags: flag.NewFlagSet(name, flag.ContinueOnError)}
	c.api = newAdminAPI(c.flags, lookup)
	c.flags.SetOutput(stderr)
	c.flags.StringVar(&c.subscription, "subscription", "", "its name")
	c.flags.IntVar(&c.partition, "partition", 0, "of the topic")
	c.flags.StringVar(&c.by, "by", r.String("USER", ""), "who you are, for the log")
	return c
}

func (c *repair) isSet(name string) (set bool) {
	c.flags.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// check is for after the flags are parsed.
func (c *repair) check() error {
	if c.by == "" {
		return process.Usagef("say who you are with --by NAME; it is logged")
	}
	return nil
}

// post asks the bridge. An answer other than 200 is an error with the bridge's reason.
func (c *repair) post(ctx context.Context, what string, in, out any) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.api.ask(ctx, http.MethodPost, "/subscriptions/"+url.PathEscape(c.subscription)+"/"+what, in, out)
}
