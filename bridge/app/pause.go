package app

import (
	"context"
	"fmt"
	"io"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// pause holds a subscription back on all replicas, resume lets it go on. Any
// bridge may be asked.
func pause(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	return setPause(ctx, lookup, args, stdout, stderr, "pause", "is paused")
}

func resume(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	return setPause(ctx, lookup, args, stdout, stderr, "resume", "is resumed")
}

func setPause(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer, what, done string) error {
	c := newRepair(what, lookup, stderr)
	reason := c.flags.String("reason", "", "why; GET /subscriptions shows it")
	if err := c.flags.Parse(args); err != nil || c.flags.NArg() > 0 || c.subscription == "" || c.isSet("partition") || (what == "pause" && *reason == "") {
		return process.Usagef("usage: bridge %s --subscription NAME --reason TEXT [--by NAME] [--admin URL]", what)
	}
	if err := c.post(ctx, what, admin.PauseRequest{Reason: *reason, By: c.by}, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s %s, on all bridges\n", c.subscription, done)
	return nil
}
