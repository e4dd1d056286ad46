package app

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/process"
)

// explanation is what one subscription does with an event.
type explanation struct {
	Name    string           `json:"subscription"`
	Match   bool             `json:"match"`
	Sink    string           `json:"sink"` // without what may be secret
	Filters []filter.Verdict `json:"filters"`
}

// explain prints which subscriptions get an event, and why the others do not.
func explain(_ context.Context, lookup env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("explain", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("event", "", "file with one CloudEvent in JSON; - for standard input")
	asJSON := flags.Bool("json", false, "print JSON, with a verdict for every filter")
	if err := flags.Parse(args); err != nil || *path == "" || flags.NArg() > 0 {
		return process.Usagef("usage: bridge explain --event FILE [--json]; FILE - is the standard input")
	}
	cfg, err := FromEnv(lookup)
	if err != nil {
		return err
	}
	body, err := readEvent(*path)
	if err != nil {
		return err
	}
	all := []explanation{}
	for _, s := range cfg.Subscriptions {
		e, err := s.event(body)
		if err != nil {
			return err
		}
		x, err := s.explain(e)
		if err != nil {
			return err
		}
		all = append(all, x)
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		return enc.Encode(all)
	}
	for _, x := range all {
		x.print(stdout)
	}
	return nil
}

func readEvent(path string) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, process.Usagef("--event: %v", err)
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, event.MaxBytes+1))
	if err != nil {
		return nil, process.Usagef("--event: %v", err)
	}
	return body, nil
}

// event is what the bridge would read from a record with this value: the first one
// of the topic, where each becomes an event. What cannot be read is a mistake of
// the caller's.
func (s Subscription) event(body []byte) (event.Event, error) {
	if s.Records == recordsAreWrapped {
		e, err := event.Wrap(s.Topic, 0, 0, event.Record{Value: body, Time: time.Now()})
		if err != nil {
			return e, process.Usagef("--event: it would be a dead letter: %v", err)
		}
		return e, nil
	}
	e, _, err := event.FromRecord(event.Record{Value: body, Headers: []event.Header{{Key: "content-type", Value: []byte("application/cloudevents+json")}}})
	if err != nil {
		if e, _, err = event.FromRecord(event.Record{Value: body}); err != nil {
			return e, process.Usagef("--event: malformed event, it would be a dead letter: %v", err)
		}
	}
	return e, nil
}

func (s Subscription) explain(e event.Event) (explanation, error) {
	x := explanation{Name: s.Name, Sink: deliver.Shown(s.Sink), Match: true, Filters: []filter.Verdict{}}
	if len(s.Types) > 0 {
		short, err := filter.New([]filter.Filter{filter.Types(s.Types)})
		if err != nil {
			return x, fmt.Errorf("subscription %s: types: %w", s.Name, err)
		}
		v := filter.Verdict{Filter: "types", Match: short.Explain(e)[0].Match, Reason: fmt.Sprintf("type %q is one of them", e.Type())}
		if !v.Match {
			v.Reason = fmt.Sprintf("type %q is none of %s", e.Type(), strings.Join(s.Types, ", "))
		}
		x.Filters = append(x.Filters, v)
	}
	long, err := filter.New(s.Filters)
	if err != nil {
		return x, fmt.Errorf("subscription %s: %w", s.Name, err)
	}
	x.Filters = append(x.Filters, long.Explain(e)...)
	for _, v := range x.Filters {
		x.Match = x.Match && v.Match
	}
	return x, nil
}

// print writes one line, and below it each filter that the event does not pass, or
// whose expression fails.
func (x explanation) print(w io.Writer) {
	if x.Match {
		fmt.Fprintf(w, "%s: yes, to %s\n", x.Name, x.Sink)
	} else {
		fmt.Fprintf(w, "%s: no\n", x.Name)
	}
	for _, v := range x.Filters {
		if !v.Match {
			printVerdict(w, v, 1)
		} else {
			printErrors(w, v)
		}
	}
}

func printVerdict(w io.Writer, v filter.Verdict, depth int) {
	fmt.Fprintf(w, "%s%s: %s, %s\n", strings.Repeat("  ", depth), v.Filter, strconv.FormatBool(v.Match), v.Reason)
	for _, inner := range v.Filters {
		printVerdict(w, inner, depth+1)
	}
}

// printErrors is for a filter that passes in spite of them.
func printErrors(w io.Writer, v filter.Verdict) {
	if v.Error != "" {
		fmt.Fprintf(w, "  %s: %s, %s\n", v.Filter, strconv.FormatBool(v.Match), v.Reason)
	}
	for _, inner := range v.Filters {
		printErrors(w, inner)
	}
}
