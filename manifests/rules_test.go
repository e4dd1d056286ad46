package manifests_test

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// rules return what violates them.
var rules = map[string]func(*world) findings{
	"restricted": notRestricted,
	"images":     unpinned,
	"alone":      notAlone,
	"resources":  withoutResources,
	"probes":     probedWrongly,
	"ports":      portsOffTheTable,
	"links":      injectedServices,
	"tokens":     mountedTokens,
	"names":      misnamed,
	"shutdown":   killedTooEarly,
	"references": dangling,
	"writers":    twoWriters,
	"budgets":    withoutBudget,
	"network":    flowsOffTheTable,
	"settings":   wrongSettings,
	"secrets":    openToAnyone,
	"sinks":      unknownSinks,
	"console":    unknownToConsole,
	"traces":     tracedElsewhere,
	"topics":     topicsWithoutMaker,
	"bootstrap":  wrongBootstrap,
	"rights":     rightsOffTheTable,
	"durability": acknowledgedTooEarly,
	"scaling":    scaledWrongly,
	"exec":       unknownToKubectl,
	"scrape":     unscraped,
	"databases":  withoutDatabase,
	"registry":   withoutRegistry,
	"autoscale":  autoscaledWrongly,
	"spread":     onOneNode,
	"outside":    openOutside,
}

// TestEverything checks each overlay and each combination of components against
// the types of their kinds and the rules.
func TestEverything(t *testing.T) {
	known := schemas(t)
	check := func(t *testing.T, objects []object) {
		for _, o := range objects {
			for _, w := range strictly(known, o) {
				t.Error(w)
			}
		}
		w := inspect(t, objects)
		for name, broken := range rules {
			if f := broken(w); len(f) > 0 {
				t.Errorf("%s:\n%s", name, f)
			}
		}
	}
	for _, dir := range overlays(t) {
		t.Run(dir, func(t *testing.T) { check(t, render(t, dir)) })
	}
	for name, folders := range combinations() {
		t.Run(name, func(t *testing.T) { check(t, render(t, compose(t, folders))) })
	}
}

func notRestricted(w *world) (f findings) {
	for _, l := range w.workloads {
		spec, c := l.template.Spec, l.container()
		pod, own := spec.SecurityContext, c.SecurityContext
		if pod == nil {
			pod = &corev1.PodSecurityContext{}
		}
		if own == nil {
			own = &corev1.SecurityContext{}
		}
		root, seccomp := own.RunAsNonRoot, own.SeccompProfile
		if root == nil {
			root = pod.RunAsNonRoot
		}
		if seccomp == nil {
			seccomp = pod.SeccompProfile
		}
		f.addIf(spec.HostNetwork || spec.HostPID || spec.HostIPC, "%s shares a namespace of the node", l)
		f.addIf(root == nil || !*root, "%s may run as root", l)
		f.addIf(seccomp == nil || seccomp.Type != corev1.SeccompProfileTypeRuntimeDefault, "%s: want the seccomp profile RuntimeDefault", l)
		f.addIf(own.Privileged != nil && *own.Privileged, "%s is privileged", l)
		f.addIf(own.AllowPrivilegeEscalation == nil || *own.AllowPrivilegeEscalation, "%s may gain privileges", l)
		caps := own.Capabilities
		f.addIf(caps == nil || !slices.Equal(caps.Drop, []corev1.Capability{"ALL"}) || len(caps.Add) > 0, "%s keeps capabilities", l)
		f.addIf(own.ReadOnlyRootFilesystem == nil || !*own.ReadOnlyRootFilesystem, "%s can write to its image", l)
		for _, v := range spec.Volumes {
			f.addIf(v.HostPath != nil, "%s mounts a folder of the node", l)
		}
	}
	return f
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+:[0-9][0-9.]*@sha256:[0-9a-f]{64}$`)

// unpinned: a tag may change, a digest cannot. The programs' own images get theirs
// when they are pushed.
func unpinned(w *world) (f findings) {
	for _, l := range w.workloads {
		image := l.container().Image
		f.addIf(l.program == "" && !pinned.MatchString(image), "%s has the image %s, want one with version and digest", l, image)
	}
	return f
}

func notAlone(w *world) (f findings) {
	for _, l := range w.workloads {
		f.addIf(len(l.template.Spec.Containers) != 1 || len(l.template.Spec.InitContainers) > 0, "%s has more than one container; the other rules check only one", l)
	}
	return f
}

func withoutResources(w *world) (f findings) {
	for _, l := range w.workloads {
		r := l.container().Resources
		f.addIf(r.Requests.Cpu().IsZero() || r.Requests.Memory().IsZero(), "%s requests no CPU or memory", l)
		f.addIf(r.Limits.Memory().IsZero(), "%s has no memory limit", l)
		// A CPU limit pauses a program in the middle of its work.
		f.addIf(!r.Limits.Cpu().IsZero(), "%s has a CPU limit", l)
	}
	return f
}

func probedWrongly(w *world) (f findings) {
	for _, l := range w.workloads {
		c := l.container()
		f.addIf(c.ReadinessProbe == nil, "%s has no readiness probe", l)
		if l.program == "" {
			continue
		}
		port := "ops"
		if l.serverless() {
			port = "" // the only one it has
		}
		start := c.StartupProbe
		if start == nil {
			start = c.LivenessProbe
		}
		deadline, err := time.ParseDuration(l.template.Annotations["serving.knative.dev/progress-deadline"])
		if limit := c.StartupProbe; l.serverless() && limit != nil {
			starts := time.Duration(limit.PeriodSeconds*limit.FailureThreshold) * time.Second
			f.addIf(err != nil || deadline <= starts, "%s may take %v to start, and Knative gives up after %v", l, starts, deadline)
		}
		for _, asked := range []struct {
			path string
			by   *corev1.Probe
		}{{"/readyz", c.ReadinessProbe}, {"/healthz", c.LivenessProbe}, {"/healthz", start}} {
			path, p := asked.path, asked.by
			wrong := p == nil || p.HTTPGet == nil || p.HTTPGet.Path != path
			f.addIf(wrong, "%s has no probe of %s", l, path)
			got := ""
			if !wrong && p.HTTPGet.Port.String() != "0" {
				got = p.HTTPGet.Port.String()
			}
			f.addIf(!wrong && got != port, "%s: probe of %s on port %q, want %q", l, path, got, port)
		}
	}
	return f
}

func portsOffTheTable(w *world) (f findings) {
	for _, l := range w.workloads {
		have := map[string]int32{}
		for _, p := range l.container().Ports {
			f.addIf(p.Name == "" && !l.serverless(), "%s: port %d has no name", l, p.ContainerPort)
			have[p.Name] = p.ContainerPort
		}
		public, ok := programs[l.program]
		switch {
		case l.program == "":
		case !ok:
			f.addIf(true, "%s is not one of the programs", l)
		case l.serverless():
			f.addIf(len(have) != 1 || have[""] != public, "%s listens on %v, want %d", l, have, public)
		default:
			f.addIf(len(have) != 2 || have["http"] != public || have["ops"] != public+1000, "%s listens on %v, want http %d and ops %d", l, have, public, public+1000)
		}
	}
	for _, s := range w.services {
		for _, p := range s.Spec.Ports {
			f.addIf(p.Name == "" || p.TargetPort.String() != p.Name, "Service %s: port %d has name %q and target %q, want one name", s.Name, p.Port, p.Name, p.TargetPort.String())
			want := map[string]int32{"http": programs[s.Name], "ops": programs[s.Name] + 1000}
			f.addIf(s.Namespace == taskwire && p.Port != want[p.Name], "Service %s: %s = %d, want %d", s.Name, p.Name, p.Port, want[p.Name])
		}
		f.addIf(s.Namespace == taskwire && len(s.Spec.Ports) != 2, "Service %s has %d ports, want http and ops", s.Name, len(s.Spec.Ports))
	}
	return f
}

func injectedServices(w *world) (f findings) {
	for _, l := range w.workloads {
		on := l.template.Spec.EnableServiceLinks
		f.addIf(on == nil || *on, "%s gets a variable for every Service; some look like settings", l)
	}
	return f
}

func mountedTokens(w *world) (f findings) {
	for _, l := range w.workloads {
		on := l.template.Spec.AutomountServiceAccountToken
		f.addIf(on == nil || *on, "%s has a token for the cluster's API", l)
	}
	for _, o := range w.of("ServiceAccount") {
		f.addIf(o["automountServiceAccountToken"] != false, "%s mounts its token", o)
	}
	return f
}

var word = regexp.MustCompile(`^[a-z]+$`)

func misnamed(w *world) (f findings) {
	found := map[string]bool{}
	for _, l := range w.ours() {
		found[l.program] = true
		c := l.container()
		f.addIf(!word.MatchString(l.program), "%s: want one word", l)
		f.addIf(c.Name != l.program || c.Image != l.program, "%s: container %q of image %q, want one name", l, c.Name, c.Image)
		f.addIf(l.template.Spec.ServiceAccountName != l.program, "%s runs as %q, want %s", l, l.template.Spec.ServiceAccountName, l.program)
		for _, labels := range []map[string]string{l.labels, l.template.Labels} {
			f.addIf(labels["app.kubernetes.io/name"] != l.program, "%s has the label name=%q, want %s", l, labels["app.kubernetes.io/name"], l.program)
			f.addIf(labels["app.kubernetes.io/part-of"] != taskwire, "%s has the label part-of=%q, want %s", l, labels["app.kubernetes.io/part-of"], taskwire)
			for _, k := range []string{"component", "version"} {
				f.addIf(labels["app.kubernetes.io/"+k] == "", "%s has no label %s", l, k)
			}
		}
		f.addIf(!l.serverless() && !w.has("Service", taskwire, l.program), "%s has no Service", l)
	}
	for name := range programs {
		f.addIf(!found[name], "%s is not deployed", name)
	}
	for _, s := range w.services {
		f.addIf(s.Namespace == taskwire && s.Spec.Selector["app.kubernetes.io/name"] != s.Name, "Service %s selects %v, want name %s", s.Name, s.Spec.Selector, s.Name)
	}
	for _, o := range w.objects {
		f.addIf(o.text("kind") != "Namespace" && !slices.Contains([]string{taskwire, kafka, postgres, registry}, o.namespace()), "%s is in namespace %q", o, o.namespace())
		f.addIf(o.text("kind") == "Namespace" && o.text("metadata", "labels", "pod-security.kubernetes.io/enforce") == "", "%s enforces no pod security", o)
	}
	return f
}

// killedTooEarly: a stopped pod sleeps until it gets no new connections, and then
// finishes what is in progress.
func killedTooEarly(w *world) (f findings) {
	for _, l := range w.ours() {
		var sleep time.Duration
		if hook := l.container().Lifecycle; hook != nil && hook.PreStop != nil && hook.PreStop.Sleep != nil {
			sleep = time.Duration(hook.PreStop.Sleep.Seconds) * time.Second
		}
		// Knative itself takes a pod out of rotation.
		f.addIf(sleep < time.Second && !l.serverless(), "%s stops before it is out of rotation", l)
		s, err := w.settings(l)
		f.addIf(err == nil && s.http.Quiet < 2*time.Second && l.program == "taskapi" && !l.recreate, "%s waits %v for the last request, and a busy node stops using its address later", l, s.http.Quiet)
		f.addIf(err == nil && l.patience <= sleep+s.http.Grace, "%s is killed after %v, want more than sleep %v and grace %v", l, l.patience, sleep, s.http.Grace)
	}
	return f
}

func dangling(w *world) (f findings) {
	for _, l := range w.ours() {
		spec := l.template.Spec
		f.addIf(!w.has("ServiceAccount", taskwire, spec.ServiceAccountName), "%s runs as %q, which does not exist", l, spec.ServiceAccountName)
		for _, v := range spec.Volumes {
			if c := v.ConfigMap; c != nil {
				f.addIf(!w.has("ConfigMap", taskwire, c.Name), "%s mounts the ConfigMap %s, which does not exist", l, c.Name)
			}
			if p := v.PersistentVolumeClaim; p != nil {
				f.addIf(!w.has("PersistentVolumeClaim", taskwire, p.ClaimName), "%s mounts the claim %s, which does not exist", l, p.ClaimName)
			}
		}
	}
	for _, o := range w.objects {
		f.addIf(o.text("kind") != "Namespace" && !w.has("Namespace", "", o.namespace()), "%s: its namespace %q does not exist", o, o.namespace())
	}
	return f
}

// twoWriters: one pod of a program that writes a file, and one that replaces it
// waits for its lock; a rollout ends the old one first.
func twoWriters(w *world) (f findings) {
	for _, l := range w.ours() {
		s, err := w.settings(l)
		writes := err == nil && s.data != ""
		f.addIf(writes && l.value("WAIT_FOR_LOCK") != "true", "%s exits while the pod that it replaces is stopping", l)
		switch {
		case !writes:
			f.addIf(l.recreate, "%s has no file, and nobody answers while it is replaced", l)
		case l.serverless():
			limit := l.template.Annotations["autoscaling.knative.dev/max-scale"]
			f.addIf(limit != "1", "%s has max-scale %q, want 1", l, limit)
		default:
			f.addIf(l.replicas != 1 || !l.recreate, "%s may run twice, want one replica and Recreate", l)
		}
	}
	return f
}

func withoutBudget(w *world) (f findings) {
	for _, l := range w.ours() {
		found := 0
		for _, b := range w.budgets {
			if b.Namespace == taskwire && selects(b.Spec.Selector, l.template.Labels) {
				found++
				// A budget that forbids every eviction would block the drain of a node.
				f.addIf(b.Spec.MinAvailable != nil || b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() != 1, "budget of %s: want maxUnavailable 1", l)
				// And so would one that counts a pod that is not ready.
				always := b.Spec.UnhealthyPodEvictionPolicy
				f.addIf(always == nil || *always != policyv1.AlwaysAllow, "budget of %s keeps a node that has a pod that is not ready", l)
			}
		}
		f.addIf(!l.serverless() && found != 1, "%s has %d disruption budgets, want 1", l, found)
	}
	return f
}

// unknownSinks: the addresses in bridge.yaml are those of existing Services.
func unknownSinks(w *world) (f findings) {
	for _, s := range w.bridge().Subscriptions {
		f = append(f, w.unserved(s.Sink)...)
	}
	return f
}

// unserved returns what is wrong with the address of a service's public port.
func (w *world) unserved(address string) (f findings) {
	u, err := url.Parse(address)
	if err != nil {
		return findings{err.Error()}
	}
	name, rest, _ := strings.Cut(u.Hostname(), ".")
	if slices.ContainsFunc(w.ours(), func(l workload) bool { return l.serverless() && l.program == name }) {
		// Knative's gateway routes by the full name.
		f.addIf(rest != "taskwire.svc.cluster.local" || u.Port() != "", "%s is not the address of a Knative Service", address)
		return f
	}
	f.addIf(rest != "" || u.Port() != strconv.Itoa(int(programs[name])), "%s is not the address of a Service on its public port", address)
	f.addIf(!w.has("Service", taskwire, name), "%s: no Service %s", address, name)
	return f
}

// unknownToKubectl: the names in the kubectl lines of the documents exist.
func unknownToKubectl(w *world) (f findings) {
	pod := w.has("StatefulSet", kafka, "task-events-kafka") || w.has("Kafka", kafka, "task-events") && w.has("KafkaNodePool", kafka, "kafka")
	f.addIf(!pod, "no pod task-events-kafka-0 in namespace kafka")
	for _, l := range w.workloads {
		if l.namespace() == kafka {
			f.addIf(l.container().WorkingDir != "/opt/kafka", "%s has working directory %q, want /opt/kafka for bin/kafka-topics.sh", l, l.container().WorkingDir)
			f.addIf(l.container().Name != "kafka" || l.replicas < 1, "%s has no container kafka", l)
		}
	}
	for _, o := range append(w.of("KafkaNodePool"), w.of("KafkaTopic")...) {
		f.addIf(o.text("metadata", "labels", "strimzi.io/cluster") != "task-events", "%s has no cluster label", o)
	}
	return f
}

// unscraped: the monitor selects every pod with the port.
func unscraped(w *world) (f findings) {
	for _, o := range w.of("PodMonitor") {
		var m struct {
			Spec struct {
				Selector            struct{ MatchLabels map[string]string }
				NamespaceSelector   struct{ MatchNames []string }
				PodTargetLabels     []string
				PodMetricsEndpoints []struct{ Port, Path string }
			}
		}
		if err := o.decode(&m); err != nil {
			return findings{err.Error()}
		}
		ends := m.Spec.PodMetricsEndpoints
		if slices.Equal(m.Spec.NamespaceSelector.MatchNames, []string{"kafka"}) { // Strimzi makes the pods, and names port and label
			f.addIf(len(ends) != 1 || ends[0].Port != "tcp-prometheus" || m.Spec.Selector.MatchLabels["strimzi.io/kind"] != "Kafka", "%s does not select Strimzi's brokers", o)
			continue
		}
		f.addIf(len(ends) != 1 || ends[0].Port != "ops" || ends[0].Path != "/metrics", "%s scrapes %v, want /metrics on port ops", o, ends)
		f.addIf(!slices.Contains(m.Spec.PodTargetLabels, "app.kubernetes.io/name"), "%s does not name the service, as the alerts expect", o)
		for _, l := range w.ours() {
			for k, v := range m.Spec.Selector.MatchLabels {
				f.addIf(l.template.Labels[k] != v, "%s does not select %s", o, l)
			}
		}
	}
	return f
}
