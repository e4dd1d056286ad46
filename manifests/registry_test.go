package manifests_test

import (
	"fmt"
	"slices"
)

// withoutRegistry: both ends of the events name the registry, at the path where it
// speaks Confluent's API, and it keeps its schemas in the Kafka of the events, whose
// listener must ask for no password.
func withoutRegistry(w *world) (f findings) {
	if !w.has("Namespace", "", registry) {
		return f
	}
	address := ""
	for _, s := range w.services {
		if s.Namespace == registry && len(s.Spec.Ports) == 1 {
			address = fmt.Sprintf("http://%s.%s:%d/apis/ccompat/v7", s.Name, s.Namespace, s.Spec.Ports[0].Port)
			served := slices.ContainsFunc(w.workloads, func(l workload) bool {
				return l.namespace() == registry && l.template.Labels["app.kubernetes.io/name"] == s.Spec.Selector["app.kubernetes.io/name"]
			})
			f.addIf(!served, "Service %s selects no pod", s.Name)
		}
	}
	for _, l := range w.workloads {
		if l.namespace() == registry {
			port, ok := cutBootstrap(l.value("APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"))
			closed, listens := w.listeners()[port]
			f.addIf(l.value("APICURIO_STORAGE_KIND") != "kafkasql", "%s forgets its schemas when its pod ends", l)
			f.addIf(!ok || !listens || closed, "%s: no listener without a password on port %s", l, port)
		}
		if l.program != "taskapi" && l.program != "bridge" {
			continue
		}
		f.addIf(l.value("EVENT_ENCODING") != "avro" || l.value("SCHEMA_REGISTRY_URL") != address, "%s has EVENT_ENCODING=%s and the registry %s, want avro and %s", l, l.value("EVENT_ENCODING"), l.value("SCHEMA_REGISTRY_URL"), address)
	}
	return f
}
