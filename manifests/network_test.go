package manifests_test

import (
	"fmt"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// pod is one end of a connection.
type pod struct {
	name, namespace string
	labels          map[string]string
	ports           map[string]int // by name
}

// door is one port of a pod.
type door struct {
	pod
	port     int
	protocol string
}

// others are the pods around the services, and some that need no access.
var others = []pod{
	{"dns", "kube-system", nil, map[string]int{"dns": 53}},
	{"kafka", kafka, map[string]string{"app.kubernetes.io/name": "kafka"}, map[string]int{"plain": 9092, "tls": 9093, "control": 9091, "tcp-prometheus": 9404}},
	{"operator", kafka, map[string]string{"name": "strimzi-cluster-operator"}, nil},
	{"database", postgres, map[string]string{"cnpg.io/cluster": "postgres"}, map[string]int{"postgres": 5432, "status": 8000}},
	{"dba", postgres, nil, nil},
	{"registry", registry, map[string]string{"app.kubernetes.io/name": "schema-registry"}, map[string]int{"http": 8080}},
	{"cnpg", "cnpg-system", map[string]string{"app.kubernetes.io/name": "cloudnative-pg"}, nil},
	{"scaler", "keda", map[string]string{"app": "keda-operator"}, nil},
	{"admission", "keda", map[string]string{"app": "keda-admission-webhooks"}, nil},
	{"prometheus", "monitoring", nil, map[string]int{"web": 9090}},
	{"collector", "monitoring", nil, map[string]int{"otlp": 4317, "otlp-http": 4318}},
	{"gateway", "kourier-system", map[string]string{"app": "3scale-kourier-gateway"}, map[string]int{"internal": 8081, "external": 8080}},
	{"activator", "knative-serving", map[string]string{"app": "activator"}, map[string]int{"http": 8012}},
	{"autoscaler", "knative-serving", map[string]string{"app": "autoscaler"}, map[string]int{"http": 8080}},
	{"stranger", "other", nil, map[string]int{"http": 80, "https": 443, "dns": 53, "otlp-http": 4318}},
	{"controller", "kourier-system", map[string]string{"app": "net-kourier-controller"}, nil},
	{"webhook", "knative-serving", map[string]string{"app": "webhook"}, nil},
}

// flowsOffTheTable evaluates all policies, from every pod to every port.
func flowsOffTheTable(w *world) (f findings) {
	pods := slices.Clone(others)
	for _, l := range w.ours() {
		p := pod{l.program, taskwire, l.template.Labels, map[string]int{}}
		for _, c := range l.container().Ports {
			p.ports[c.Name] = int(c.ContainerPort)
		}
		if l.serverless() {
			public := int(programs[l.program])
			p.ports = map[string]int{"user-port": public, "": public + 1000, "queue-port": 8012, "http-autometric": 9090}
		}
		pods = append(pods, p)
	}
	var have []string
	between := map[string][]string{} // what one side alone lets through to the brokers and databases
	for _, from := range pods {
		for _, to := range pods {
			for _, port := range to.ports {
				kept := to.namespace == kafka && port != 9404 || w.walled(to)
				for _, protocol := range []string{"TCP", "UDP"} {
					flow := fmt.Sprintf("%s to %s %d/%s", from.name, to.name, port, protocol)
					touches := from.namespace == taskwire || to.namespace == taskwire || to.namespace == kafka || w.walled(to) || from.namespace == registry && w.walled(from)
					if touches && from.name != to.name && w.passes(from, door{to, port, protocol}) {
						have = append(have, flow)
					}
					for side, allows := range map[string]func(pod, door) bool{"egress": w.leaves, "ingress": w.enters} {
						if from.namespace == taskwire && kept && allows(from, door{to, port, protocol}) {
							between[side] = append(between[side], flow)
						}
					}
				}
			}
		}
	}
	f.differ("network", have, w.flows())
	for side, flows := range between {
		f.differ(side, flows, slices.DeleteFunc(w.flows(), func(s string) bool {
			name, to, _ := strings.Cut(s, " to ")
			return programs[name] == 0 || !strings.HasPrefix(to, "kafka ") && !strings.HasPrefix(to, "database ") && !strings.HasPrefix(to, "registry ")
		}))
	}
	f.addIf(!slices.ContainsFunc(w.policies, deniesAll), "no policy denies everything by default")
	return f
}

// walled reports whether a pod belongs to a namespace that a component brings along,
// with its policies.
func (w *world) walled(p pod) bool {
	return (p.namespace == postgres || p.namespace == registry) && w.has("Namespace", "", p.namespace)
}

func deniesAll(p networkingv1.NetworkPolicy) bool {
	s := p.Spec
	return p.Namespace == taskwire && len(s.PolicyTypes) == 2 && len(s.Ingress)+len(s.Egress) == 0 &&
		len(s.PodSelector.MatchLabels)+len(s.PodSelector.MatchExpressions) == 0
}

// flows returns all connections that must be possible; no other may be.
func (w *world) flows() []string {
	var want []string
	add := func(from, to string, port int) { want = append(want, fmt.Sprintf("%s to %s %d/TCP", from, to, port)) }
	for name, port := range programs {
		add(name, "dns", 53)
		want = append(want, name+" to dns 53/UDP")
		if len(w.of("PodMonitor")) > 0 && (!w.serverless || name == "taskapi" || name == "bridge") {
			add("prometheus", name, int(port)+1000)
			add("collector", name, int(port)+1000)
		}
		if w.traced() {
			add(name, "collector", 4318)
		}
	}
	if w.tried() {
		add("bridge", "taskapi", 8000)
	}
	for _, o := range others {
		if o.namespace != registry || !w.walled(o) {
			add(o.name, "taskapi", 8000)
		}
	}
	listener := 9092
	if w.guarded() {
		listener = 9093
	}
	add("taskapi", "kafka", listener)
	add("bridge", "kafka", listener)
	if len(w.of("ScaledObject")) > 0 {
		add("scaler", "kafka", listener)
	}
	for _, port := range []int{9091, 9092, 9093, 9404} {
		add("operator", "kafka", port)
	}
	if len(w.metered()) > 0 {
		for _, o := range others { // Strimzi's own policy opens them to everybody
			if o.namespace != kafka && (o.namespace != registry || !w.walled(o)) {
				add(o.name, "kafka", 9404)
			}
		}
	}
	if w.has("Namespace", "", registry) {
		add("taskapi", "registry", 8080)
		add("bridge", "registry", 8080)
		add("registry", "kafka", listener)
		add("registry", "dns", 53)
		want = append(want, "registry to dns 53/UDP")
	}
	if w.has("Namespace", "", postgres) {
		add("taskapi", "database", 5432)
		add("auditor", "database", 5432)
		for _, port := range []int{5432, 8000} {
			add("dba", "database", port)
			if len(w.of("Cluster")) > 0 {
				add("cnpg", "database", port)
			}
		}
	}
	if !w.serverless {
		add("bridge", "notifier", 8002)
		add("bridge", "auditor", 8003)
		return want
	}
	add("bridge", "gateway", 8081)
	for _, sink := range []string{"notifier", "auditor"} {
		add("gateway", sink, 8012)
		add("activator", sink, 8012)
		add("autoscaler", sink, 9090)
	}
	return want
}

func (w *world) passes(from pod, to door) bool {
	return w.leaves(from, to) && w.enters(from, to)
}

// leaves reports whether egress is allowed: to anything for a pod that no egress
// policy selects, to what one of them lists for any other.
func (w *world) leaves(from pod, to door) bool {
	selected := false
	for _, p := range w.policies {
		if !applies(p, from, networkingv1.PolicyTypeEgress) {
			continue
		}
		selected = true
		for _, r := range p.Spec.Egress {
			if opens(r.Ports, to) && among(r.To, p.Namespace, to.pod) {
				return true
			}
		}
	}
	return !selected
}

func (w *world) enters(from pod, to door) bool {
	selected := false
	for _, p := range append(w.generated(), w.policies...) {
		if !applies(p, to.pod, networkingv1.PolicyTypeIngress) {
			continue
		}
		selected = true
		for _, r := range p.Spec.Ingress {
			if opens(r.Ports, to) && among(r.From, p.Namespace, from) {
				return true
			}
		}
	}
	return !selected
}

type listener struct {
	Port               int
	NetworkPolicyPeers []networkingv1.NetworkPolicyPeer
}

// metered returns the clusters whose brokers export metrics.
func (w *world) metered() []object {
	return slices.DeleteFunc(w.of("Kafka"), func(o object) bool { return o.text("spec", "kafka", "metricsConfig", "type") == "" })
}

// generated returns the policies that Strimzi makes of the listeners. Policies add
// up, so a listener without peers is open whatever the files here say.
func (w *world) generated() (found []networkingv1.NetworkPolicy) {
	for _, o := range w.of("Kafka") {
		var k struct {
			Spec struct {
				Kafka struct {
					Listeners []listener
				}
			}
		}
		if o.decode(&k) != nil {
			continue
		}
		listeners := k.Spec.Kafka.Listeners
		if len(w.metered()) > 0 {
			listeners = append(listeners, listener{Port: 9404})
		}
		for _, l := range listeners {
			port := intstr.FromInt(l.Port)
			var p networkingv1.NetworkPolicy
			p.Namespace = o.namespace()
			p.Spec.PodSelector.MatchLabels = map[string]string{"app.kubernetes.io/name": "kafka"}
			p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: l.NetworkPolicyPeers, Ports: []networkingv1.NetworkPolicyPort{{Port: &port}}}}
			found = append(found, p)
		}
	}
	return found
}

func applies(p networkingv1.NetworkPolicy, to pod, kind networkingv1.PolicyType) bool {
	return p.Namespace == to.namespace && slices.Contains(p.Spec.PolicyTypes, kind) && selects(&p.Spec.PodSelector, to.labels)
}

func opens(ports []networkingv1.NetworkPolicyPort, to door) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		protocol := "TCP"
		if p.Protocol != nil {
			protocol = string(*p.Protocol)
		}
		switch {
		case protocol != to.protocol:
			return false
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			return to.ports[p.Port.StrVal] == to.port
		case p.EndPort != nil:
			return to.port >= p.Port.IntValue() && to.port <= int(*p.EndPort)
		}
		return p.Port.IntValue() == to.port
	})
}

func among(peers []networkingv1.NetworkPolicyPeer, home string, other pod) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(p networkingv1.NetworkPolicyPeer) bool {
		switch {
		case p.IPBlock != nil:
			return true // may be any pod
		case p.NamespaceSelector == nil && other.namespace != home:
			return false
		case p.NamespaceSelector != nil && !selects(p.NamespaceSelector, map[string]string{"kubernetes.io/metadata.name": other.namespace}):
			return false
		}
		return p.PodSelector == nil || selects(p.PodSelector, other.labels)
	})
}

// selects reports a match: a nil selector matches nothing, an empty one everything.
func selects(s *metav1.LabelSelector, have map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(have))
}
