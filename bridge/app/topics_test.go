package app_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/app"
	"github.com/taskwire/taskwire/internal/env"
)

// A subscription reads its own topic, else the file's, else KAFKA_TOPIC; its dead
// letters follow the topic.
func TestTheTopicOfASubscription(t *testing.T) {
	for name, c := range map[string]struct {
		vars           map[string]string
		text           string
		topic, letters string
	}{
		"its own":        {nil, "topic: b\nsubscriptions: [{name: s, group: g, sink: 'http://x/', topic: a}]\n", "a", "a-dlq"},
		"the file's":     {map[string]string{"KAFKA_TOPIC": "c"}, "topic: b\nsubscriptions: [{name: s, group: g, sink: 'http://x/'}]\n", "b", "b-dlq"},
		"KAFKA_TOPIC":    {map[string]string{"KAFKA_TOPIC": "c"}, "subscriptions: [{name: s, group: g, sink: 'http://x/'}]\n", "c", "c-dlq"},
		"none":           {nil, "subscriptions: [{name: s, group: g, sink: 'http://x/'}]\n", "task-events", "task-events-dlq"},
		"without a file": {map[string]string{"KAFKA_TOPIC": "c"}, "", "c", "c-dlq"},
		"with letters":   {nil, "subscriptions: [{name: s, group: g, sink: 'http://x/', topic: a, deadletter: d}]\n", "a", "d"},
	} {
		vars := map[string]string{}
		for k, v := range c.vars {
			vars[k] = v
		}
		if c.text != "" {
			vars["BRIDGE_CONFIG"] = write(t, c.text)
		}
		cfg, err := app.FromEnv(env.Map(vars))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s := cfg.Subscriptions[0]; s.Topic != c.topic || s.DeadLetter != c.letters {
			t.Errorf("%s: topic %s with dead letters in %s, want %s and %s", name, s.Topic, s.DeadLetter, c.topic, c.letters)
		}
	}
}

// TestMistakesOfTopics: a wrong topic is named once, where it stands.
func TestMistakesOfTopics(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"one group for two topics": {"subscriptions: [{name: s, group: g, sink: 'http://x/', topic: a}, {name: t, group: g, sink: 'http://x/', topic: b}]\n",
			[]string{": subscriptions[1] (t).group: used twice, by subscriptions[0] (s) too; each subscription needs its own group"}},
		"the file's topic": {"topic: '!'\nsubscriptions: [{name: s, group: g, sink: 'http://x/'}]\n",
			[]string{": topic: want a topic name of 1 to 249 letters, digits, dots, underscores and dashes"}},
		"its own topic": {"subscriptions: [{name: s, group: g, sink: 'http://x/', topic: '!'}]\n",
			[]string{": subscriptions[0] (s).topic: want a topic name of 1 to 249 letters, digits, dots, underscores and dashes"}},
		"a long topic": {"subscriptions: [{name: s, group: g, sink: 'http://x/', topic: " + strings.Repeat("a", 249) + "}]\n",
			[]string{": subscriptions[0] (s).deadletter: want a topic name of 1 to 249 letters, digits, dots, underscores and dashes"}},
		"unknown records": {"subscriptions: [{name: s, group: g, sink: 'http://x/', records: avro}]\n",
			[]string{": subscriptions[0] (s).records: want cloudevents or wrap"}},
	} {
		path := write(t, c.text)
		for i := range c.want {
			c.want[i] = "BRIDGE_CONFIG: " + path + c.want[i]
		}
		if diff := cmp.Diff(c.want, mistakes(t, path)); diff != "" {
			t.Errorf("%s: mistakes (-want +got):\n%s", name, diff)
		}
	}
}
