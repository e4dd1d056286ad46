package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// dlqJob asks a bridge to redrive or ignore letters and shows how far it is. The
// job lives in the bridge: a lost connection does not stop it. A signal does: who
// presses Ctrl-C sees something go wrong.
func dlqJob(ctx context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	kind := args[0]
	c := newRepair("dlq "+kind, lookup, stderr)
	var in admin.RedriveRequest
	var detach bool
	selectFlags(c.flags, &in.Select, kind == "redrive")
	c.flags.BoolVar(&in.All, "all", false, "every open letter of the subscription, instead of a selection")
	c.flags.BoolVar(&in.DryRun, "dry-run", false, "say how many letters and keys it is about, and for how many newer events were delivered; change nothing")
	c.flags.BoolVar(&detach, "detach", false, "do not wait for the end")
	if kind == "redrive" {
		c.flags.Float64Var(&in.Rate, "rate", 0, "posts per second beside the subscription's own limit; 0 for none")
	} else {
		c.flags.StringVar(&in.Reason, "reason", "", "why; it is logged with each letter")
	}
	err := c.flags.Parse(args[1:])
	switch {
	case err != nil || c.flags.NArg() > 0 || c.subscription == "" || (kind == "ignore" && in.Reason == ""):
		return process.Usagef("usage: bridge dlq redrive --subscription NAME selection|--all [--dry-run] [--rate N] [--detach] [--by NAME] [--admin URL], " +
			"bridge dlq ignore --subscription NAME selection|--all --reason TEXT [--dry-run]; bridge dlq redrive --help shows the flags of a selection")
	case in.Select.Empty() != in.All:
		return process.Usagef("want a selection, or --all for every open letter of the subscription, and not both")
	}
	if err := c.check(); err != nil {
		return err
	}
	in.Subscription, in.By = c.subscription, c.by
	var job redrive.View
	if err := c.api.ask(ctx, http.MethodPost, "/deadletters/"+kind, in, &job); err != nil {
		return err
	}
	if detach {
		fmt.Fprintf(stdout, "job %s\n", job.ID)
		return nil
	}
	return c.follow(ctx, job, stdout, stderr)
}

// follow shows the progress of a job until it ends.
func (c *repair) follow(ctx context.Context, job redrive.View, stdout, stderr io.Writer) error {
	path := "/deadletters/jobs/" + job.ID
	for job.State == redrive.Running {
		var next redrive.View
		err := c.api.ask(ctx, http.MethodGet, path+"?wait=1", nil, &next)
		if ctx.Err() != nil {
			fmt.Fprintln(stderr, "cancelling: posts in flight finish and are marked, the rest stays open")
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = c.api.ask(stop, http.MethodDelete, path, nil, &next)
		}
		if err != nil {
			return fmt.Errorf("job %s may go on in the bridge, see GET /deadletters/jobs: %w", job.ID, err)
		}
		if job = next; job.State == redrive.Running {
			fmt.Fprintln(stderr, shown(job)) // stdout is for the result, and may be a pipe
		}
	}
	fmt.Fprintln(stdout, shown(job))
	if job.State != redrive.Done {
		return fmt.Errorf("job %s: %s; what it has not done is still open", job.State, job.Reason)
	}
	return nil
}

// shown is a job on one line.
func shown(v redrive.View) string {
	if p := v.Plan; p != nil {
		least := ""
		if p.AtLeast {
			least = "at least "
		}
		line := fmt.Sprintf("would %s %d letters of %s%d keys; %s%d of them have newer events of their key delivered already; %d were redriven before; reasons %s, types %s",
			v.Kind, p.Letters, least, p.Keys, least, p.Newer, p.Redriven, counts(p.Reasons), counts(p.Types))
		if v.State == redrive.Running {
			line = fmt.Sprintf("looked at %d records: %s", p.Records, line)
		}
		return line
	}
	p := v.Progress
	if p == nil {
		return string(v.State)
	}
	line := fmt.Sprintf("%s: %d delivered, %d failed again, %d ignored, %d filtered, %d left open, %d in hand, %d to read",
		v.State, p.Delivered, p.Failed, p.Ignored, p.Filtered, p.Open, p.InHand, p.Unread)
	if v.Reason != "" {
		line += fmt.Sprintf(" (%s)", v.Reason)
	}
	return line
}

// counts is safe for a terminal.
func counts(m map[string]int64) string {
	text, _ := json.Marshal(m) // it cannot fail
	return string(escaped(text))
}
