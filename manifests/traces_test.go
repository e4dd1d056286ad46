package manifests_test

import (
	"net/url"
	"strconv"
	"strings"
)

const collector = "OTEL_EXPORTER_OTLP_ENDPOINT"

// traced reports whether a service exports spans.
func (w *world) traced() bool {
	for _, l := range w.ours() {
		if l.value(collector) != "" {
			return true
		}
	}
	return false
}

// tracedElsewhere: every service exports to a collector that the network policies let
// it reach.
func tracedElsewhere(w *world) (f findings) {
	if !w.traced() && !w.has("NetworkPolicy", taskwire, "to-collector") {
		return f
	}
	for _, l := range w.ours() {
		u, err := url.Parse(l.value(collector))
		if err != nil {
			return append(f, err.Error())
		}
		_, namespace, _ := strings.Cut(u.Hostname(), ".")
		port, _ := strconv.Atoi(u.Port())
		from := pod{l.program, taskwire, l.template.Labels, nil}
		to := door{pod{"collector", namespace, nil, nil}, port, "TCP"}
		f.addIf(!w.leaves(from, to), "%s cannot reach its collector %q", l, u)
	}
	return f
}
