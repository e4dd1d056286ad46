package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/kafka"
	"github.com/taskwire/taskwire/internal/webhook"
)

// What the records of a topic are.
const (
	recordsAreEvents  = "cloudevents"
	recordsAreWrapped = "wrap"
)

// How data in Avro is posted.
const (
	dataAsJSON = "json"
	dataAsIs   = "as-is"
)

// read returns the content of c.File with defaults filled in, and every mistake in it.
func (c Config) read() (f file, wrong []string) {
	f, wrong, err := readFile(c.File)
	if err != nil {
		return f, []string{err.Error()}
	}
	if err := kafka.CheckTopic(f.Topic); err != nil && f.Topic != "" {
		wrong = append(wrong, c.File+": topic: "+err.Error())
	}
	f.fill(c.Kafka.Topic)
	for _, w := range slices.Concat(f.check(), c.check(f.Subscriptions)) {
		wrong = append(wrong, c.File+": "+w)
	}
	return f, wrong
}

// fill sets the defaults of what was left out.
func (f *file) fill(topic string) {
	if f.Topic == "" {
		f.Topic = topic
	}
	for i, s := range f.Subscriptions {
		f.Subscriptions[i] = s.filled(f.Topic)
	}
}

// check names every mistake in the content of the file.
func (f file) check() []string {
	var wrong []string
	if len(f.Subscriptions) == 0 && !f.isBroken("subscriptions") {
		wrong = append(wrong, "subscriptions: want at least one")
	}
	names, groups := map[string]int{}, map[string]int{}
	for i, s := range f.Subscriptions {
		for _, w := range s.check() {
			at, _, _ := strings.Cut(w, ":")
			inherited := at == "topic" && s.Topic == f.Topic // a mistake of its own
			if !inherited && !f.isBroken(fmt.Sprintf("subscriptions[%d].%s", i, at)) {
				wrong = append(wrong, f.place(i)+"."+w)
			}
		}
		if first, ok := names[s.Name]; ok && s.Name != "" {
			wrong = append(wrong, fmt.Sprintf("%s.name: used twice, by subscriptions[%d] too", f.place(i), first))
		}
		// Two subscriptions in one group would share the partitions of a topic, and each
		// get half of the events; of two topics, each would take the other's place.
		if first, ok := groups[s.Group]; ok && s.Group != "" {
			wrong = append(wrong, fmt.Sprintf("%s.group: used twice, by %s too; each subscription needs its own group", f.place(i), f.place(first)))
		}
		names[s.Name], groups[s.Group] = i, i
		if len(wrong) > mostMistakes {
			return append(wrong[:mostMistakes], moreMistakes)
		}
	}
	return wrong
}

// place is where a subscription stands in the file.
func (f file) place(i int) string {
	return fmt.Sprintf("subscriptions[%d]%s", i, named(f.Subscriptions[i].Name))
}

// check names what is wrong with the subscriptions together, and with where their
// sinks are.
func (c Config) check(subscriptions []Subscription) []string {
	var wrong []string
	f := file{Subscriptions: subscriptions}
	readers := map[string]int{} // a subscription of each topic
	for i, s := range subscriptions {
		readers[s.Topic] = i
	}
	for i, s := range subscriptions {
		if err := deliver.CheckHost(s.Sink, c.SinkAllow); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s.sink: %v", f.place(i), err))
		}
		// The bridge would read its own dead letters, fail again, and write more.
		if reader, ok := readers[s.DeadLetter]; ok {
			wrong = append(wrong, fmt.Sprintf("%s.deadletter: %s is a topic that the bridge reads, for %s, so each dead letter would become another; choose a topic that nobody delivers from",
				f.place(i), s.DeadLetter, f.place(reader)))
		}
		if len(wrong) > mostMistakes {
			return append(wrong[:mostMistakes], moreMistakes)
		}
	}
	return wrong
}

// defaults are the subscriptions without a file. The variable of their secrets is
// the sinks': in one process, as dev runs, one setting signs and verifies.
func (c Config) defaults(r *env.Reader) []Subscription {
	signing := Signing{SecretFile: r.String("WEBHOOK_SECRET_FILE", "")}
	if signing.SecretFile != "" {
		if err := webhook.Check(signing.SecretFile); err != nil {
			r.Fail("WEBHOOK_SECRET_FILE", "%v", err)
		}
	}
	sink := func(key, def string) string {
		address := r.URL(key, def)
		if err := deliver.CheckHost(address, c.SinkAllow); err != nil {
			r.Fail(key, "%v", err)
		}
		return address
	}
	notifications := Subscription{Name: "notifications", Group: "notification-service", Sink: sink("NOTIFIER_URL", "http://localhost:8002/"),
		Types: []string{"task.created", "task.completed"}, Mode: pump.Auto, Signing: signing}.filled(c.Kafka.Topic)
	if err := kafka.CheckTopic(notifications.DeadLetter); err != nil && kafka.CheckTopic(c.Kafka.Topic) == nil {
		r.Fail("KAFKA_TOPIC", "the name of its dead-letter topic would be %s: %v", notifications.DeadLetter, err)
	}
	// The audit group never skips an event: it waits and raises an alarm.
	audit := Subscription{Name: "audit", Group: "audit-service", Sink: sink("AUDITOR_URL", "http://localhost:8003/"), Exhausted: "block", Mode: pump.Auto, Signing: signing}.filled(c.Kafka.Topic)
	return []Subscription{notifications, audit}
}
