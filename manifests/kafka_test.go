package manifests_test

import (
	"fmt"
	"slices"
	"strings"
)

// listeners of a broker by port; the value says whether TLS and a password are asked for.
func (w *world) listeners() map[string]bool {
	found := map[string]bool{}
	for _, s := range w.services {
		for _, p := range s.Spec.Ports {
			if s.Namespace == kafka && s.Name == "task-events-kafka-bootstrap" {
				found[fmt.Sprint(p.Port)] = false
			}
		}
	}
	for _, o := range w.of("Kafka") {
		var k struct {
			Spec struct {
				Kafka struct {
					Listeners []struct {
						Port           int
						TLS            bool
						Authentication *struct{ Type string }
					}
				}
			}
		}
		if o.decode(&k) != nil || o.name() != "task-events" || o.namespace() != kafka {
			continue
		}
		for _, l := range k.Spec.Kafka.Listeners {
			found[fmt.Sprint(l.Port)] = l.TLS && l.Authentication != nil && l.Authentication.Type == "scram-sha-512"
		}
	}
	return found
}

// wrongBootstrap: clients and brokers agree about address and closedness.
func wrongBootstrap(w *world) (f findings) {
	listeners := w.listeners()
	for _, l := range w.ours() {
		s, err := w.settings(l)
		if err != nil || len(s.kafka.Brokers) == 0 {
			continue
		}
		port, ok := strings.CutPrefix(s.kafka.Brokers[0], "task-events-kafka-bootstrap.kafka:")
		f.say(len(s.kafka.Brokers) != 1 || !ok, "%s looks for kafka at %v", l, s.kafka.Brokers)
		closed, ok := listeners[port]
		f.say(!ok, "%s: no listener has the port %s", l, port)
		f.say(ok && closed != s.kafka.TLS.Enabled, "%s: TLS is %v, the listener's %v", l, s.kafka.TLS.Enabled, closed)
		f.say(ok && closed != (s.kafka.SASL.Mechanism == "SCRAM-SHA-512"), "%s logs in with %q, the listener asks: %v", l, s.kafka.SASL.Mechanism, closed)
	}
	for port, closed := range listeners {
		f.say(closed != (len(listeners) == 1 && w.guarded()), "port %s: a listener and the rights of the users do not go together", port)
	}
	return f
}

// guarded says whether the brokers look at rights.
func (w *world) guarded() bool {
	return slices.ContainsFunc(w.of("Kafka"), func(o object) bool { return o.text("spec", "kafka", "authorization", "type") == "simple" })
}

// topics are the one of the events and those of the dead letters.
func (w *world) topics() (events string, all []string) {
	cfg := w.bridge()
	all = []string{cfg.Kafka.Topic}
	for _, s := range cfg.Subscriptions {
		if !slices.Contains(all, s.DeadLetter) {
			all = append(all, s.DeadLetter)
		}
	}
	return cfg.Kafka.Topic, all
}

// topicsWithoutMaker: the operator makes the topics, or else the services do.
func topicsWithoutMaker(w *world) (f findings) {
	events, want := w.topics()
	var have []string
	for _, o := range w.of("KafkaTopic") {
		have = append(have, o.name())
		spec, _ := o["spec"].(map[string]any)
		f.say(o.name() == events && spec["partitions"] != 1.0, "%s has %v partitions, want 1", o, spec["partitions"])
		f.say(o.name() != events && fmt.Sprint(spec["config"].(map[string]any)["retention.ms"]) != "-1", "%s forgets dead letters", o)
	}
	operated := len(w.of("Kafka")) > 0
	if operated {
		f.differ("topics", have, want)
	}
	for _, l := range w.ours() {
		s, err := w.settings(l)
		if err != nil || len(s.kafka.Brokers) == 0 {
			continue
		}
		f.say(s.kafka.CreateTopics == operated, "%s: makes topics: %v, the operator does: %v", l, s.kafka.CreateTopics, operated)
		f.say(s.kafka.Topic != events, "%s works on the topic %s, the bridge on %s", l, s.kafka.Topic, events)
	}
	return f
}

// rightsOffTheTable: each user has what its service needs, and no more.
func rightsOffTheTable(w *world) (f findings) {
	events, topics := w.topics()
	producer := "cluster : IdempotentWrite"
	want := map[string][]string{
		"taskapi": {"topic " + events + ": Describe Write", producer},
		"bridge":  {"topic " + events + ": Describe Read", producer},
	}
	for _, dead := range topics[1:] {
		want["bridge"] = append(want["bridge"], "topic "+dead+": Describe Read Write")
	}
	for _, s := range w.bridge().Subscriptions {
		want["bridge"] = append(want["bridge"], "group "+s.Group+": Describe Read")
	}
	users := w.of("KafkaUser")
	f.say(w.guarded() != (len(users) > 0), "brokers that look at rights: %v, users: %d", w.guarded(), len(users))
	for _, o := range users {
		have, err := rights(o)
		f.say(err != nil, "%s: %v", o, err)
		f.say(o.namespace() != taskwire || o.text("metadata", "labels", "strimzi.io/cluster") != "task-events", "%s is seen by no operator", o)
		f.differ(o.String(), have, want[o.name()])
	}
	for name := range want {
		f.say(w.guarded() && !w.has("KafkaUser", taskwire, name), "%s has no user", name)
	}
	for _, o := range w.of("Kafka") {
		f.say(w.guarded() && o.text("spec", "entityOperator", "userOperator", "watchedNamespace") != taskwire, "%s: its operator does not see the users", o)
	}
	return f
}

func rights(o object) ([]string, error) {
	var u struct {
		Spec struct {
			Authentication struct{ Type string }
			Authorization  struct {
				ACLs []struct {
					Type       string
					Resource   struct{ Type, Name, PatternType string }
					Host       string
					Operations []string
				}
			}
		}
	}
	if err := o.decode(&u); err != nil {
		return nil, err
	}
	if u.Spec.Authentication.Type != "scram-sha-512" {
		return nil, fmt.Errorf("logs in with %q", u.Spec.Authentication.Type)
	}
	var found []string
	for _, a := range u.Spec.Authorization.ACLs {
		if a.Type != "" || a.Host != "" || a.Resource.PatternType == "prefix" {
			return nil, fmt.Errorf("%v is not a plain right", a)
		}
		slices.Sort(a.Operations)
		found = append(found, fmt.Sprintf("%s %s: %s", a.Resource.Type, a.Resource.Name, strings.Join(a.Operations, " ")))
	}
	return found, nil
}

// acknowledgedTooEarly: with three brokers a record is on two before it is acknowledged.
func acknowledgedTooEarly(w *world) (f findings) {
	for _, o := range w.of("KafkaNodePool") {
		brokers := o["spec"].(map[string]any)["replicas"].(float64)
		safe := brokers - 1
		if brokers == 1 {
			safe = 1
		}
		f.say(brokers == 2, "%s: two brokers stop when one does", o)
		for _, k := range w.of("Kafka") {
			config := k["spec"].(map[string]any)["kafka"].(map[string]any)["config"].(map[string]any)
			for name, v := range config {
				f.say(strings.HasSuffix(name, "replication.factor") && v != brokers, "%s: %s is %v, there are %v brokers", k, name, v, brokers)
				f.say((strings.HasSuffix(name, "min.isr") || name == "min.insync.replicas") && v != safe, "%s: %s is %v, want %v", k, name, v, safe)
			}
			f.say(config["auto.create.topics.enable"] != false, "%s makes a topic of every misspelt name", k)
		}
		for _, t := range w.of("KafkaTopic") {
			spec := t["spec"].(map[string]any)
			f.say(spec["replicas"] != brokers || spec["config"].(map[string]any)["min.insync.replicas"] != safe, "%s has not %v copies, %v before an acknowledgement", t, brokers, safe)
		}
	}
	return f
}

// scaledWrongly: KEDA watches the groups that the bridge has, where it has them.
func scaledWrongly(w *world) (f findings) {
	for _, o := range w.of("ScaledObject") {
		var s struct {
			Spec struct {
				ScaleTargetRef  struct{ Name string }
				MinReplicaCount int
				Triggers        []struct {
					Type              string
					AuthenticationRef struct{ Name string }
					Metadata          map[string]string
				}
			}
		}
		if err := o.decode(&s); err != nil {
			return findings{err.Error()}
		}
		f.say(s.Spec.ScaleTargetRef.Name != "bridge" || s.Spec.MinReplicaCount < 1, "%s scales %q down to %d", o, s.Spec.ScaleTargetRef.Name, s.Spec.MinReplicaCount)
		cfg := w.bridge()
		var have, want []string
		for _, t := range s.Spec.Triggers {
			m := t.Metadata
			have = append(have, m["consumerGroup"])
			f.say(t.Type != "kafka" || m["topic"] != cfg.Kafka.Topic || !slices.Equal(cfg.Kafka.Brokers, []string{m["bootstrapServers"]}), "%s watches %v, the bridge works on %s at %v", o, m, cfg.Kafka.Topic, cfg.Kafka.Brokers)
			f.say((m["tls"] == "enable") != w.guarded() || (m["sasl"] == "scram_sha512") != w.guarded(), "%s logs in with %v, brokers look at rights: %v", o, m, w.guarded())
			f.say(!w.has("TriggerAuthentication", taskwire, t.AuthenticationRef.Name), "%s logs in as %q", o, t.AuthenticationRef.Name)
		}
		for _, sub := range cfg.Subscriptions {
			want = append(want, sub.Group)
		}
		f.differ(o.String(), have, want)
		for _, d := range w.of("Deployment") {
			_, fixed := d["spec"].(map[string]any)["replicas"]
			f.say(d.name() == "bridge" && fixed, "%s has a number of replicas that each apply would set back", d)
		}
	}
	return f
}
