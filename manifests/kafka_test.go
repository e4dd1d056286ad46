package manifests_test

import (
	"fmt"
	"slices"
	"strings"
)

// listeners returns the listeners of the brokers by port, true for those with TLS and a password.
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

// wrongBootstrap: clients and brokers agree on address, TLS and login.
func wrongBootstrap(w *world) (f findings) {
	listeners := w.listeners()
	for _, l := range w.ours() {
		s, err := w.settings(l)
		if err != nil || len(s.kafka.Brokers) == 0 {
			continue
		}
		port, ok := cutBootstrap(s.kafka.Brokers[0])
		f.addIf(len(s.kafka.Brokers) != 1 || !ok, "%s has brokers %v, want one port of task-events-kafka-bootstrap.kafka", l, s.kafka.Brokers)
		closed, ok := listeners[port]
		f.addIf(!ok, "%s: no listener on port %s", l, port)
		f.addIf(ok && closed != s.kafka.TLS.Enabled, "%s: TLS = %v, want %v as the listener", l, s.kafka.TLS.Enabled, closed)
		f.addIf(ok && closed != (s.kafka.SASL.Mechanism == "SCRAM-SHA-512"), "%s logs in with %q, listener requires a login = %v", l, s.kafka.SASL.Mechanism, closed)
	}
	for port, closed := range listeners {
		f.addIf(closed != (len(listeners) == 1 && w.guarded()), "port %s: an open listener beside access control, or a closed one without", port)
	}
	return f
}

func cutBootstrap(server string) (port string, ok bool) {
	return strings.CutPrefix(server, "task-events-kafka-bootstrap.kafka:")
}

// guarded reports whether the brokers check access rights.
func (w *world) guarded() bool {
	return slices.ContainsFunc(w.of("Kafka"), func(o object) bool { return o.text("spec", "kafka", "authorization", "type") == "simple" })
}

// topics returns the topic of the events, and all topics with those of the dead letters.
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

// control is the topic of the pauses.
const control = "taskwire-control"

// topicsWithoutMaker: either the operator creates the topics or the services do.
func topicsWithoutMaker(w *world) (f findings) {
	events, want := w.topics()
	want = append(want, control)
	var have []string
	for _, o := range w.of("KafkaTopic") {
		have = append(have, o.name())
		spec, _ := o["spec"].(map[string]any)
		want := 1.0
		if w.many() {
			want = 12
		}
		f.addIf(o.name() == events && spec["partitions"] != want, "%s has %v partitions, want %v", o, spec["partitions"], want)
		config := spec["config"].(map[string]any)
		switch o.name() {
		case events:
		case control:
			f.addIf(spec["partitions"] != 1.0 || config["cleanup.policy"] != "compact", "%s forgets which subscriptions are paused", o)
		default:
			f.addIf(fmt.Sprint(config["retention.ms"]) != "-1", "%s deletes dead letters after a time", o)
		}
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
		f.addIf(s.kafka.CreateTopics == operated, "%s: KAFKA_CREATE_TOPICS = %v, operator creates topics = %v", l, s.kafka.CreateTopics, operated)
		f.addIf(s.kafka.Topic != events, "%s has topic %s, want %s as the bridge", l, s.kafka.Topic, events)
	}
	return f
}

// rightsOffTheTable: each user has exactly the rights that its service needs.
func rightsOffTheTable(w *world) (f findings) {
	events, topics := w.topics()
	producer := "cluster : IdempotentWrite"
	want := map[string][]string{
		"taskapi": {"topic " + events + ": Describe Write", producer},
		"bridge":  {"topic " + events + ": Describe DescribeConfigs Read", "topic " + control + ": Describe Read Write", producer},
	}
	for _, dead := range topics[1:] {
		want["bridge"] = append(want["bridge"], "topic "+dead+": Describe Read Write")
	}
	for _, s := range w.bridge().Subscriptions {
		want["bridge"] = append(want["bridge"], "group "+s.Group+": Describe Read", "group "+s.Group+".status: Describe Read", "group "+s.Group+".dlq: Describe Read")
	}
	users := w.of("KafkaUser")
	f.addIf(w.guarded() != (len(users) > 0), "brokers check rights = %v with %d users", w.guarded(), len(users))
	for _, o := range users {
		have, err := rights(o)
		f.addIf(err != nil, "%s: %v", o, err)
		f.addIf(o.namespace() != taskwire || o.text("metadata", "labels", "strimzi.io/cluster") != "task-events", "%s: no operator watches it", o)
		f.differ(o.String(), have, want[o.name()])
	}
	for name := range want {
		f.addIf(w.guarded() && !w.has("KafkaUser", taskwire, name), "%s has no user", name)
	}
	for _, o := range w.of("Kafka") {
		f.addIf(w.guarded() && o.text("spec", "entityOperator", "userOperator", "watchedNamespace") != taskwire, "%s: its operator does not watch the users", o)
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
			return nil, fmt.Errorf("%v is not a simple right", a)
		}
		slices.Sort(a.Operations)
		found = append(found, fmt.Sprintf("%s %s: %s", a.Resource.Type, a.Resource.Name, strings.Join(a.Operations, " ")))
	}
	return found, nil
}

// acknowledgedTooEarly: with three brokers a record has two copies before it is acknowledged.
func acknowledgedTooEarly(w *world) (f findings) {
	for _, o := range w.of("KafkaNodePool") {
		brokers := o["spec"].(map[string]any)["replicas"].(float64)
		safe := brokers - 1
		if brokers == 1 {
			safe = 1
		}
		f.addIf(brokers == 2, "%s: two brokers stop when one stops", o)
		for _, k := range w.of("Kafka") {
			config := k["spec"].(map[string]any)["kafka"].(map[string]any)["config"].(map[string]any)
			for name, v := range config {
				f.addIf(strings.HasSuffix(name, "replication.factor") && v != brokers, "%s: %s = %v, want %v", k, name, v, brokers)
				f.addIf((strings.HasSuffix(name, "min.isr") || name == "min.insync.replicas") && v != safe, "%s: %s = %v, want %v", k, name, v, safe)
			}
			f.addIf(config["auto.create.topics.enable"] != false, "%s creates a topic for every misspelt name", k)
		}
		for _, t := range w.of("KafkaTopic") {
			spec := t["spec"].(map[string]any)
			f.addIf(spec["replicas"] != brokers || spec["config"].(map[string]any)["min.insync.replicas"] != safe, "%s: want %v copies, %v of them before the acknowledgement", t, brokers, safe)
		}
	}
	return f
}

// scaledWrongly: KEDA watches the groups of the bridge on its cluster.
func scaledWrongly(w *world) (f findings) {
	for _, o := range w.of("ScaledObject") {
		var s struct {
			Spec struct {
				ScaleTargetRef  struct{ Name string }
				MinReplicaCount int
				MaxReplicaCount float64
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
		f.addIf(s.Spec.ScaleTargetRef.Name != "bridge" || s.Spec.MinReplicaCount < 1, "%s scales %q down to %d, want bridge to at least 1", o, s.Spec.ScaleTargetRef.Name, s.Spec.MinReplicaCount)
		for _, topic := range w.of("KafkaTopic") {
			partitions := topic["spec"].(map[string]any)["partitions"]
			f.addIf(w.many() && topic.name() == "task-events" && (partitions != s.Spec.MaxReplicaCount || s.Spec.MinReplicaCount < 2), "%s scales from %d to %v bridges for %v partitions", o, s.Spec.MinReplicaCount, s.Spec.MaxReplicaCount, partitions)
		}
		cfg := w.bridge()
		var have, want []string
		for _, t := range s.Spec.Triggers {
			m := t.Metadata
			have = append(have, m["consumerGroup"])
			f.addIf(t.Type != "kafka" || m["topic"] != cfg.Kafka.Topic || !slices.Equal(cfg.Kafka.Brokers, []string{m["bootstrapServers"]}), "%s watches %v, want topic %s at %v", o, m, cfg.Kafka.Topic, cfg.Kafka.Brokers)
			f.addIf(m["excludePersistentLag"] != "true", "%s starts bridges for a sink that is down", o)
			f.addIf((m["tls"] == "enable") != w.guarded() || (m["sasl"] == "scram_sha512") != w.guarded(), "%s logs in with %v, brokers check rights = %v", o, m, w.guarded())
			f.addIf(!w.has("TriggerAuthentication", taskwire, t.AuthenticationRef.Name), "%s: no TriggerAuthentication %q", o, t.AuthenticationRef.Name)
		}
		for _, sub := range cfg.Subscriptions {
			want = append(want, sub.Group)
		}
		f.differ(o.String(), have, want)
		for _, d := range w.of("Deployment") {
			_, fixed := d["spec"].(map[string]any)["replicas"]
			f.addIf(d.name() == "bridge" && fixed, "%s sets replicas, which each apply would reset", d)
		}
	}
	return f
}
