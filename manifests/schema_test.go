package manifests_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apijson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// builtin are the kinds of Kubernetes itself that may be rendered.
var builtin = map[string]reflect.Type{
	"v1/Namespace":                           reflect.TypeFor[corev1.Namespace](),
	"v1/ServiceAccount":                      reflect.TypeFor[corev1.ServiceAccount](),
	"v1/ConfigMap":                           reflect.TypeFor[corev1.ConfigMap](),
	"v1/Service":                             reflect.TypeFor[corev1.Service](),
	"v1/PersistentVolumeClaim":               reflect.TypeFor[corev1.PersistentVolumeClaim](),
	"apps/v1/Deployment":                     reflect.TypeFor[appsv1.Deployment](),
	"apps/v1/StatefulSet":                    reflect.TypeFor[appsv1.StatefulSet](),
	"autoscaling/v2/HorizontalPodAutoscaler": reflect.TypeFor[autoscalingv2.HorizontalPodAutoscaler](),
	"networking.k8s.io/v1/Ingress":           reflect.TypeFor[networkingv1.Ingress](),
	"policy/v1/PodDisruptionBudget":          reflect.TypeFor[policyv1.PodDisruptionBudget](),
	"networking.k8s.io/v1/NetworkPolicy":     reflect.TypeFor[networkingv1.NetworkPolicy](),
}

// schema is the part of a CRD's structural schema that the files in schemas/ use.
type schema struct {
	Type                 string            `json:"type"`
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties *schema           `json:"additionalProperties"`
	Items                *schema           `json:"items"`
	Required             []string          `json:"required"`
	Enum                 []any             `json:"enum"`
	Pattern              string            `json:"pattern"`
	Minimum              *float64          `json:"minimum"`
	Maximum              *float64          `json:"maximum"`
	IntOrString          bool              `json:"x-kubernetes-int-or-string"`
	Open                 bool              `json:"x-kubernetes-preserve-unknown-fields"`
}

// schemas returns the checked-in schemas by the key of their objects.
func schemas(t *testing.T) map[string]schema {
	t.Helper()
	files, err := filepath.Glob("schemas/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("schemas/*.yaml = no files, %v", err)
	}
	found := map[string]schema{}
	for _, f := range files {
		for _, doc := range documents(t, f) {
			var crd struct {
				Spec struct {
					Group    string
					Names    struct{ Kind string }
					Versions []struct {
						Name   string
						Schema struct{ OpenAPIV3Schema schema }
					}
				}
			}
			if err := yaml.Unmarshal([]byte(doc), &crd); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			for _, v := range crd.Spec.Versions {
				s := v.Schema.OpenAPIV3Schema
				if s.Properties == nil {
					t.Fatalf("%s: %s has no properties", f, crd.Spec.Names.Kind)
				}
				// A cluster adds these three to each schema and checks them itself.
				s.Properties["apiVersion"], s.Properties["kind"] = schema{Type: "string"}, schema{Type: "string"}
				s.Properties["metadata"] = schema{Type: "object", Open: true}
				found[crd.Spec.Group+"/"+v.Name+"/"+crd.Spec.Names.Kind] = s
			}
		}
	}
	return found
}

// check returns where v violates s; a member that s does not have is a violation.
func (s schema) check(at string, v any) []string {
	if s.IntOrString {
		switch v := v.(type) {
		case float64:
			return nil
		case string:
			if regexp.MustCompile(s.Pattern).MatchString(v) {
				return nil
			}
		}
		return []string{fmt.Sprintf("%s: got %v, want a number or a string %s", at, v, s.Pattern)}
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return []string{fmt.Sprintf("%s: got %v, want one of %v", at, v, s.Enum)}
	}
	switch v := v.(type) {
	case map[string]any:
		return s.checkMembers(at, v)
	case []any:
		return s.checkItems(at, v)
	case string:
		if s.Type == "string" && regexp.MustCompile(s.Pattern).MatchString(v) {
			return nil
		}
	case float64:
		inside := (s.Minimum == nil || v >= *s.Minimum) && (s.Maximum == nil || v <= *s.Maximum)
		if inside && (s.Type == "number" || s.Type == "integer" && v == float64(int64(v))) {
			return nil
		}
	case bool:
		if s.Type == "boolean" {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s: got %v, want %s %s", at, v, s.Type, s.Pattern)}
}

func (s schema) checkMembers(at string, v map[string]any) []string {
	var wrong []string
	if s.Type != "object" {
		return []string{fmt.Sprintf("%s: got an object, want %s", at, s.Type)}
	}
	for _, r := range s.Required {
		if _, ok := v[r]; !ok {
			wrong = append(wrong, at+"."+r+": is missing")
		}
	}
	for name, member := range v {
		known, ok := s.Properties[name]
		switch {
		case ok:
			wrong = append(wrong, known.check(at+"."+name, member)...)
		case s.AdditionalProperties != nil:
			wrong = append(wrong, s.AdditionalProperties.check(at+"."+name, member)...)
		case !s.Open:
			wrong = append(wrong, at+"."+name+": is unknown")
		}
	}
	return wrong
}

func (s schema) checkItems(at string, v []any) []string {
	if s.Type != "array" || s.Items == nil {
		return []string{fmt.Sprintf("%s: got a list, want %s", at, s.Type)}
	}
	var wrong []string
	for i, item := range v {
		wrong = append(wrong, s.Items.check(fmt.Sprintf("%s[%d]", at, i), item)...)
	}
	return wrong
}

// strictly returns what a cluster would reject in o, including unknown members.
func strictly(known map[string]schema, o object) []string {
	if s, ok := known[o.key()]; ok {
		return s.check(o.String(), map[string]any(o))
	}
	kind, ok := builtin[o.key()]
	if !ok {
		return []string{fmt.Sprintf("%s: no type and no file in schemas/ for the kind %s", o, o.key())}
	}
	data, err := json.Marshal(o)
	if err != nil {
		return []string{err.Error()}
	}
	var wrong []string
	refused, err := apijson.UnmarshalStrict(data, reflect.New(kind).Interface())
	for _, r := range append(refused, err) {
		if r != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", o, r))
		}
	}
	return wrong
}

func TestSchemasRejectMistakes(t *testing.T) {
	known, objects := schemas(t), append(render(t, "overlays/serverless"), render(t, "overlays/scale")...)
	for name, c := range map[string]struct {
		of, path string
		value    any
	}{
		"misspelt member of a container":      {"apps/v1/Deployment bridge", "spec.template.spec.containers.0.imagePullPolice", "Always"},
		"member in another case":              {"apps/v1/Deployment bridge", "spec.Replicas", 2},
		"text for a number":                   {"apps/v1/Deployment bridge", "spec.replicas", "two"},
		"unknown member of a custom resource": {"kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.replicas", 3},
		"value outside an enumeration":        {"kafka.strimzi.io/v1/Kafka task-events", "spec.kafka.listeners.0.type", "intern"},
		"missing member of a custom resource": {"kafka.strimzi.io/v1/KafkaNodePool kafka", "spec.roles", nil},
		"text for a number in one":            {"keda.sh/v1alpha1/ScaledObject bridge", "spec.maxReplicaCount", "8"},
		"number for text in one":              {"keda.sh/v1alpha1/ScaledObject bridge", "spec.triggers.0.metadata.lagThreshold", 100},
		"a list for an object":                {"serving.knative.dev/v1/Service auditor", "spec.template.spec.containers.0.resources", []any{}},
		"a member that Knative does not have": {"serving.knative.dev/v1/Service auditor", "spec.template.spec.terminationGracePeriodSeconds", 35},
		"an invalid duration":                 {"monitoring.coreos.com/v1/PodMonitor taskwire", "spec.podMetricsEndpoints.0.interval", "15 s"},
		"a quantity that is none":             {"postgresql.cnpg.io/v1/Cluster postgres", "spec.resources.limits.memory", "2 GB"},
		"an unknown kind":                     {"v1/Service bridge", "kind", "Servise"},
		"an old version of a custom resource": {"kafka.strimzi.io/v1/KafkaTopic task-events", "apiVersion", "kafka.strimzi.io/v1beta2"},
	} {
		t.Run(name, func(t *testing.T) {
			o := find(t, copied(t, objects), c.of)
			if wrong := strictly(known, o); len(wrong) > 0 {
				t.Fatalf("rejected before the change: %v", wrong)
			}
			set(t, o, c.path, c.value)
			if len(strictly(known, o)) == 0 {
				t.Errorf("%s = %v was accepted, want a violation", c.path, c.value)
			}
		})
	}
}
