package app

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/console"
	"github.com/taskwire/taskwire/bridge/internal/filter"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
)

// Console is the settings of the web console.
type Console struct {
	Off, ReadOnly, HidePayloads bool
	Base                        string // BASE_PATH, without a slash at its end
	TaskAPI, Auditor            string // URLs; "" for pages that say so

	// Breakable lets operators break sinks for a trial. No setting turns it on: it is
	// for go run ./dev.
	Breakable bool
}

func consoleFromEnv(r *env.Reader) Console {
	mode := r.Enum("CONSOLE", "on", "on", "readonly", "off")
	c := Console{
		Off: mode == "off", ReadOnly: mode == "readonly", HidePayloads: r.Enum("CONSOLE_PAYLOADS", "show", "show", "hide") == "hide",
		TaskAPI: r.String("TASKAPI_URL", ""), Auditor: r.String("AUDITOR_URL", ""),
	}
	if c.TaskAPI != "" {
		r.URL("TASKAPI_URL", "")
	}
	if c.Auditor != "" && r.String("BRIDGE_CONFIG", "") != "" { // else the default subscriptions check it
		r.URL("AUDITOR_URL", "")
	}
	c.Auditor, _, _ = strings.Cut(c.Auditor, "?") // the token of a sink is not for readers
	c.TaskAPI, _, _ = strings.Cut(c.TaskAPI, "?")
	base := r.String("BASE_PATH", "")
	c.Base = strings.TrimSuffix(base, "/")
	if base != "" && (!strings.HasPrefix(base, "/") || strings.ContainsFunc(base, notOfPath) || strings.Contains(base, "//")) {
		r.Fail("BASE_PATH", "want a path such as /bridge, of letters, digits, slashes, dashes, dots and underscores")
	}
	return c
}

func notOfPath(c rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._", c)
}

// newConsole returns nil when the console is off.
func (s *Service) newConsole(cfg Config, fleet *fleet, door admin.Config, steps *journal.Journal, fault *pump.Fault) *console.Console {
	if cfg.Console.Off {
		return nil
	}
	return console.New(console.Config{
		Admin: door, Subscriptions: fleet.subscriptions, Journal: steps, Fault: fault, ReadOnly: cfg.Console.ReadOnly,
		Base: cfg.Console.Base, TaskAPI: cfg.Console.TaskAPI, Auditor: cfg.Console.Auditor, Log: s.reload.log,
		Settings: func(name string) []console.Setting {
			settings, ok := fleet.settings(name)
			if !ok {
				return nil
			}
			return settings.shown()
		},
		Explain: func(name string, body []byte) (console.Explanation, error) {
			settings, ok := fleet.settings(name)
			if !ok {
				return console.Explanation{}, errors.New("there is no subscription with this name")
			}
			e, err := settings.event(body)
			if err != nil {
				return console.Explanation{}, err
			}
			x, err := settings.explain(e)
			out := console.Explanation{Match: x.Match}
			for _, v := range x.Filters {
				out.Verdicts = verdicts(out.Verdicts, v, "")
			}
			return out, err
		},
	})
}

func verdicts(lines []string, v filter.Verdict, indent string) []string {
	lines = append(lines, fmt.Sprintf("%s%s: %t, %s", indent, v.Filter, v.Match, v.Reason))
	for _, inner := range v.Filters {
		lines = verdicts(lines, inner, indent+"  ")
	}
	return lines
}

// settings are those in force of a subscription.
func (f *fleet) settings(name string) (Subscription, bool) {
	for _, m := range f.wanted() {
		if m.settings.Name == name {
			return m.settings, true
		}
	}
	return Subscription{}, false
}

// shown is each setting, without what may be secret, and whether it is what it is
// without being set.
func (s Subscription) shown() []console.Setting {
	plain := Subscription{Name: s.Name, Group: s.Group, Sink: s.Sink}.filled(s.Topic)
	text := Config{Subscriptions: []Subscription{s}}.lines()
	usual := Config{Subscriptions: []Subscription{plain}}.lines()
	var out []console.Setting
	for _, line := range text {
		def := false
		for _, u := range usual {
			def = def || u == line
		}
		switch line.Name {
		case "name", "group", "sink", "topic":
			def = false // there is none
		}
		out = append(out, console.Setting{Name: line.Name, Value: line.Value, Default: def})
	}
	return out
}

// lines are the members of the first subscription, those within others as a.b.
func (c Config) lines() []console.Setting {
	text, err := c.text()
	if err != nil {
		return []console.Setting{{Name: "error", Value: err.Error()}}
	}
	var f struct {
		Subscriptions []yaml.MapSlice `yaml:"subscriptions"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(text), &f, yaml.UseOrderedMap()); err != nil || len(f.Subscriptions) == 0 {
		return []console.Setting{{Name: "error", Value: fmt.Sprint(err)}}
	}
	return flat(nil, "", f.Subscriptions[0])
}

func flat(out []console.Setting, prefix string, m yaml.MapSlice) []console.Setting {
	for _, item := range m {
		name := prefix + fmt.Sprint(item.Key)
		switch v := item.Value.(type) {
		case yaml.MapSlice:
			out = flat(out, name+".", v)
		case []any:
			parts := make([]string, len(v))
			for i, one := range v {
				parts[i] = fmt.Sprint(one)
			}
			out = append(out, console.Setting{Name: name, Value: strings.Join(parts, ", ")})
		default:
			out = append(out, console.Setting{Name: name, Value: fmt.Sprint(v)})
		}
	}
	return out
}
