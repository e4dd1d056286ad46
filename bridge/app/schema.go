package app

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
)

// schemaText is the JSON Schema of the configuration file, for editors. It is
// also where bridge init takes its comments and defaults from. A test holds it
// equal to the types that the file is read into.
//
//go:embed config.schema.json
var schemaText string

// schemaURL is where editors find it. A file that init has printed stays good
// when it is moved to another machine.
const schemaURL = "https://raw.githubusercontent.com/taskwire/taskwire/main/bridge/app/config.schema.json"

func schema(_ context.Context, _ env.Lookup, args []string, stdout, _ io.Writer) error {
	if len(args) > 0 {
		return process.Usagef("schema takes no argument")
	}
	_, err := io.WriteString(stdout, schemaText)
	return err
}

const initUsage = "--topic TOPIC --sink URL [--records cloudevents|wrap] [--name NAME] [--group GROUP]"

// initialize prints a configuration with one subscription, to be read and changed.
func initialize(_ context.Context, _ env.Lookup, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("init", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var s Subscription
	flags.StringVar(&s.Topic, "topic", "", "what the subscription reads")
	flags.StringVar(&s.Sink, "sink", "", "address to which each event is posted")
	flags.StringVar(&s.Records, "records", recordsAreEvents, "cloudevents, or wrap for records of any other kind")
	flags.StringVar(&s.Name, "name", "", "of the subscription; the topic's if left out")
	flags.StringVar(&s.Group, "group", "", "consumer group; bridge-NAME if left out")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 || s.Topic == "" || s.Sink == "" {
		return process.Usagef("usage: bridge init %s", initUsage)
	}
	if s.Name == "" {
		s.Name = s.Topic
	}
	if s.Group == "" {
		s.Group = "bridge-" + s.Name
	}
	if wrong := s.filled("").check(); len(wrong) > 0 {
		return process.Usagef("--%s", strings.Join(wrong, "; --"))
	}
	text, err := initial(s)
	if err != nil {
		return err
	}
	_, err = io.WriteString(stdout, text)
	return err
}

// initial is a configuration with s alone. What s leaves out is there as comments,
// with defaults and descriptions.
func initial(s Subscription) (string, error) {
	var doc struct {
		Definitions struct {
			Subscription struct {
				Properties yaml.MapSlice `yaml:"properties"`
			} `yaml:"subscription"`
		} `yaml:"definitions"`
	}
	if err := yaml.UnmarshalWithOptions([]byte(schemaText), &doc, yaml.UseOrderedMap()); err != nil {
		return "", fmt.Errorf("read the schema: %w", err)
	}
	set := map[string]string{"name": s.Name, "topic": s.Topic, "records": s.Records, "group": s.Group, "sink": s.Sink}
	var b strings.Builder
	fmt.Fprintf(&b, "# yaml-language-server: $schema=%s\n", schemaURL)
	b.WriteString("# A subscription of the bridge. Start with BRIDGE_CONFIG=FILE bridge, or see what is in force with\n" +
		"# BRIDGE_CONFIG=FILE bridge check. Lines with # show the defaults.\nsubscriptions:\n")
	lead := "  - "
	for _, p := range doc.Definitions.Subscription.Properties {
		key, _ := p.Key.(string)
		about, _ := p.Value.(yaml.MapSlice)
		value, ok := set[key]
		if !ok {
			b.WriteString(example(key, about))
			continue
		}
		line, err := yaml.Marshal(yaml.MapSlice{{Key: key, Value: value}})
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%-50s # %v\n", lead+strings.TrimSpace(string(line)), about.ToMap()["description"])
		lead = "    "
	}
	return b.String(), nil
}

// example is the line of a key that is left out.
func example(key string, about yaml.MapSlice) string {
	m := about.ToMap()
	value := fmt.Sprint(m["default"])
	switch properties, _ := m["properties"].(yaml.MapSlice); {
	case properties != nil:
		value = "{" + strings.Join(pairs(properties), ", ") + "}"
	case m["type"] == "array":
		value = "[]"
	case m["type"] == "object":
		value = "{}"
	case m["default"] == nil:
		value = ""
	}
	line := strings.TrimSuffix("    # "+key+": "+value, " ")
	return fmt.Sprintf("%-50s # %v\n", line, m["description"])
}

func pairs(properties yaml.MapSlice) []string {
	var out []string
	for _, p := range properties {
		about, _ := p.Value.(yaml.MapSlice)
		def, ok := about.ToMap()["default"]
		if !ok {
			def = `""`
		}
		out = append(out, fmt.Sprintf("%v: %v", p.Key, def))
	}
	return out
}
