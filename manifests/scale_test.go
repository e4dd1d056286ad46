package manifests_test

import (
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// many reports whether the pods of a service come and go with the load, on a topic
// with many partitions.
func (w *world) many() bool {
	return len(w.of("HorizontalPodAutoscaler")) > 0 && len(w.of("ScaledObject")) > 0
}

// databases are the variable and the database of those services that may have one.
var databases = map[string][2]string{"taskapi": {"DATABASE_URL", "tasks"}, "auditor": {"AUDIT_DATABASE_URL", "audit"}}

// withoutDatabase: each service has a database of its own on the primary, over TLS
// where there is an operator, and what is confirmed is on two disks.
func withoutDatabase(w *world) (f findings) {
	if !w.has("Namespace", "", postgres) {
		return f
	}
	operated := len(w.of("Cluster")) > 0
	f.addIf(operated == w.has("StatefulSet", postgres, "postgres"), "want one PostgreSQL server")
	for _, l := range w.ours() {
		asks, ok := databases[l.program]
		if !ok {
			continue
		}
		u, err := url.Parse(l.value(asks[0]))
		if err != nil {
			return findings{err.Error()}
		}
		f.addIf(u.Host != "postgres-rw.postgres:5432" || u.User.Username() != l.program || u.Path != "/"+asks[1], "%s has the database %s, want %s of the primary, as %s", l, u, asks[1], l.program)
		mode := "disable"
		if operated {
			mode = "verify-full"
		}
		f.addIf(u.Query().Get("sslmode") != mode, "%s connects with sslmode=%s, want %s", l, u.Query().Get("sslmode"), mode)
		f.addIf(operated && (l.origin(u.Query().Get("sslrootcert")) != "postgres-ca/ca.crt" || l.origin(l.value("PGPASSFILE")) != l.program+"-postgres/pgpass"), "%s has no certificate or password of the server", l)
	}
	for _, o := range w.of("Cluster") {
		var c struct {
			Spec struct {
				Instances  int
				Postgresql struct {
					Synchronous struct {
						Number         int
						DataDurability string
						FailoverQuorum bool
					}
				}
			}
		}
		if err := o.decode(&c); err != nil {
			return findings{err.Error()}
		}
		s := c.Spec.Postgresql.Synchronous
		f.addIf(s.Number != 1 || s.DataDurability != "required", "%s confirms what is on one disk only", o)
		f.addIf(!s.FailoverQuorum, "%s may fail over to a standby without the last changes", o)
		f.addIf(c.Spec.Instances < 3, "%s has %d instances, and changes wait while one of two is away", o, c.Spec.Instances)
		f.addIf(!w.has("Database", postgres, "audit"), "%s has no database for the auditor", o)
	}
	return f
}

// autoscaledWrongly: every service has two pods at least, and one that sets how many.
func autoscaledWrongly(w *world) (f findings) {
	scalers := w.of("HorizontalPodAutoscaler")
	if len(scalers) == 0 {
		return f
	}
	scaled := map[string]int32{}
	for _, o := range scalers {
		var h autoscalingv2.HorizontalPodAutoscaler
		if err := o.decode(&h); err != nil {
			return findings{err.Error()}
		}
		f.addIf(!w.has("Deployment", taskwire, h.Spec.ScaleTargetRef.Name), "%s scales %s, which does not exist", o, h.Spec.ScaleTargetRef.Name)
		f.addIf(h.Spec.MinReplicas == nil || *h.Spec.MinReplicas < 2 || h.Spec.MaxReplicas < 3, "%s has fewer than two pods at times, or never more", o)
		scaled[h.Spec.ScaleTargetRef.Name]++
	}
	for _, d := range w.of("Deployment") {
		_, fixed := d["spec"].(map[string]any)["replicas"]
		f.addIf(scaled[d.name()] > 0 && fixed, "%s sets replicas, which each apply would reset", d)
		f.addIf(d.name() != "bridge" && scaled[d.name()] != 1, "%s has %d autoscalers, want 1", d, scaled[d.name()])
	}
	return f
}

// onOneNode: where there are several pods of a service, they spread.
func onOneNode(w *world) (f findings) {
	if !w.has("Deployment", taskwire, "taskapi") || !w.spreads() {
		return f
	}
	for _, l := range w.ours() {
		if l.serverless() {
			continue
		}
		var have []string
		for _, c := range l.template.Spec.TopologySpreadConstraints {
			have = append(have, c.TopologyKey)
			// Of one service and one revision: during a rollout the old pods do not count.
			f.addIf(!slices.Equal(c.MatchLabelKeys, []string{"app.kubernetes.io/name", "pod-template-hash"}) || !selects(c.LabelSelector, l.template.Labels), "%s: spread over %s counts other pods", l, c.TopologyKey)
			f.addIf(c.WhenUnsatisfiable != corev1.ScheduleAnyway, "%s: spread over %s keeps pods from starting", l, c.TopologyKey)
		}
		f.differ(l.String()+" spread", have, []string{"topology.kubernetes.io/zone", "kubernetes.io/hostname"})
	}
	return f
}

// spreads reports whether any service is spread; TestPodsAreSpread says where that must be.
func (w *world) spreads() bool {
	return slices.ContainsFunc(w.ours(), func(l workload) bool { return len(l.template.Spec.TopologySpreadConstraints) > 0 })
}

func TestPodsAreSpread(t *testing.T) {
	for _, dir := range []string{"overlays/production", "overlays/scale", "overlays/kind-scale"} {
		if !inspect(t, render(t, dir)).spreads() {
			t.Errorf("%s: no pod is spread over nodes", dir)
		}
	}
}

// TestScaleHasTwoOfEverything: and nothing that stops before its successor is ready.
func TestScaleHasTwoOfEverything(t *testing.T) {
	for _, dir := range []string{"overlays/scale", "overlays/kind-scale"} {
		w := inspect(t, render(t, dir))
		if dir == "overlays/scale" && !w.many() {
			t.Errorf("%s: nothing scales with the load", dir)
		}
		for _, l := range w.ours() {
			if l.recreate || !w.many() && l.replicas < 2 {
				t.Errorf("%s: %s has %d replicas, Recreate = %v", dir, l, l.replicas, l.recreate)
			}
		}
		if claims := w.of("PersistentVolumeClaim"); len(claims) > 0 {
			t.Errorf("%s: %v ties a service to a node", dir, claims)
		}
	}
}

// openOutside: what is reached from outside the cluster is the Task API alone, over
// TLS, with tokens.
func openOutside(w *world) (f findings) {
	for _, o := range w.of("Ingress") {
		var in networkingv1.Ingress
		if err := o.decode(&in); err != nil {
			return findings{err.Error()}
		}
		var encrypted []string
		for _, t := range in.Spec.TLS {
			f.addIf(t.SecretName == "", "%s names no certificate", o)
			encrypted = append(encrypted, t.Hosts...)
		}
		f.addIf(in.Spec.DefaultBackend != nil, "%s has a default backend", o)
		for _, r := range in.Spec.Rules {
			f.addIf(!slices.Contains(encrypted, r.Host), "%s: %q has no TLS", o, r.Host)
			for _, p := range r.HTTP.Paths {
				s := p.Backend.Service
				f.addIf(s == nil || s.Name != "taskapi" || s.Port.Name != "http", "%s leads to %+v, want taskapi http", o, s)
			}
		}
	}
	secure := map[string]bool{}
	for _, o := range w.of("Gateway") {
		var g struct {
			Spec struct {
				Listeners []struct {
					Name, Protocol string
					TLS            *struct{ Mode string }
				}
			}
		}
		if err := o.decode(&g); err != nil {
			return findings{err.Error()}
		}
		for _, l := range g.Spec.Listeners {
			secure[o.name()+"/"+l.Name] = true
			f.addIf(l.Protocol != "HTTPS" || l.TLS == nil || l.TLS.Mode != "Terminate", "%s: listener %s has no TLS", o, l.Name)
		}
	}
	for _, o := range w.of("HTTPRoute") {
		var r struct {
			Spec struct {
				ParentRefs []struct{ Name, SectionName string }
				Rules      []struct {
					BackendRefs []struct {
						Name string
						Port int32
					}
				}
			}
		}
		if err := o.decode(&r); err != nil {
			return findings{err.Error()}
		}
		for _, p := range r.Spec.ParentRefs {
			f.addIf(!secure[p.Name+"/"+p.SectionName], "%s: no listener %s of %s", o, p.SectionName, p.Name)
		}
		for _, rule := range r.Spec.Rules {
			for _, b := range rule.BackendRefs {
				f.addIf(b.Name != "taskapi" || b.Port != programs["taskapi"], "%s leads to %+v, want taskapi %d", o, b, programs["taskapi"])
			}
		}
	}
	for _, l := range w.ours() {
		outside := len(w.of("Ingress"))+len(w.of("HTTPRoute")) > 0
		f.addIf(outside && l.program == "taskapi" && l.origin(l.value("API_TOKENS_FILE")) == "", "%s is open to the world", l)
	}
	return f
}

// TestSettingsThatAreCommentedOut: each line that a user may uncomment is valid.
func TestSettingsThatAreCommentedOut(t *testing.T) {
	lines := 0
	for _, file := range []string{"kafka-patch.yaml", "pool-patch.yaml"} {
		text, err := os.ReadFile("overlays/production/" + file)
		if err != nil {
			t.Fatal(err)
		}
		open := regexp.MustCompile(`(?m)^# (- \{)`)
		lines += len(open.FindAllString(string(text), -1))
		var patch []struct {
			Op, Path string
			Value    any
		}
		if err := yaml.UnmarshalStrict(open.ReplaceAll(text, []byte("$1")), &patch); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		known, objects := schemas(t), render(t, "overlays/production")
		for _, o := range append(inspect(t, objects).of("Kafka"), inspect(t, objects).of("KafkaNodePool")...) {
			if (o.text("kind") == "Kafka") != (file == "kafka-patch.yaml") {
				continue
			}
			for _, p := range patch {
				set(t, o, strings.ReplaceAll(strings.TrimPrefix(p.Path, "/"), "/", "."), p.Value)
			}
			for _, wrong := range strictly(known, o) {
				t.Errorf("%s: %s", file, wrong)
			}
		}
	}
	if lines != 3 {
		t.Errorf("%d settings to uncomment, want rack, class and zones", lines)
	}
}
