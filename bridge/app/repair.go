package app

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
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
	lookup           env.Lookup
	subscription, by string
	admin            string
	partition        int
}

func newRepair(name string, lookup env.Lookup, stderr io.Writer) *repair {
	r := env.NewReader(lookup)
	c := &repair{flags: flag.NewFlagSet(name, flag.ContinueOnError), lookup: lookup}
	c.flags.SetOutput(stderr)
	c.flags.StringVar(&c.subscription, "subscription", "", "its name")
	c.flags.IntVar(&c.partition, "partition", 0, "of the topic")
	c.flags.StringVar(&c.by, "by", r.String("USER", ""), "who you are, for the log")
	c.flags.StringVar(&c.admin, "admin", r.String("ADMIN_URL", "http://localhost:8001"), "admin API of the bridge that has the partition")
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
	if err := env.CheckURL(c.admin); err != nil {
		return process.Usagef("ADMIN_URL or --admin: %v", err)
	}
	return nil
}

// post asks the bridge. An answer other than 2xx is an error with the bridge's reason.
func (c *repair) post(ctx context.Context, what string, in, out any) error {
	if err := c.check(); err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, "/subscriptions/"+url.PathEscape(c.subscription)+"/"+what, in, out)
}

// call sends in, if it is not nil, and reads the answer into out.
func (c *repair) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.admin, "/")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := c.authorize(req); err != nil {
		return err
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("the admin API of the bridge does not answer; set ADMIN_URL or --admin: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the answer of the bridge: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p httpd.Problem
		_ = json.Unmarshal(answer, &p) // without a problem the status says enough
		return fmt.Errorf("the bridge answered %d: %s", resp.StatusCode, p.Detail)
	}
	return json.Unmarshal(answer, out)
}

// authorize adds the first token of ADMIN_TOKEN_FILE, the file that the bridge
// itself reads.
func (c *repair) authorize(req *http.Request) error {
	path, _ := c.lookup("ADMIN_TOKEN_FILE")
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("ADMIN_TOKEN_FILE: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			req.Header.Set("Authorization", "Bearer "+line)
			return nil
		}
	}
	return fmt.Errorf("ADMIN_TOKEN_FILE: %s holds no token", path)
}
