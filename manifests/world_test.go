package manifests_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
)

const (
	taskwire = "taskwire"        // the namespace of the services
	kafka    = "kafka"           // the namespace of the brokers
	postgres = "postgres"        // the namespace of the database servers
	registry = "schema-registry" // the namespace of the Schema Registry
)

// programs and their public ports, as SPEC.md has them; metrics are 1000 above.
var programs = map[string]int32{"taskapi": 8000, "bridge": 8001, "notifier": 8002, "auditor": 8003}

// world is a rendered set of objects, grouped as the rules need them.
type world struct {
	objects    []object
	workloads  []workload
	services   []corev1.Service
	policies   []networkingv1.NetworkPolicy
	budgets    []policyv1.PodDisruptionBudget
	serverless bool   // the sinks are Knative Services
	dir        string // for mounted files
}

// workload is an object that creates pods.
type workload struct {
	object
	kind, program string // program is "" when it is not one of the services
	labels        map[string]string
	template      corev1.PodTemplateSpec
	replicas      int32
	recreate      bool          // the old pod ends before the new one starts
	patience      time.Duration // termination grace period of its pods
}

func (w workload) serverless() bool { return w.kind == "Service" }

// container returns the only container of the pod, see notAlone.
func (w workload) container() corev1.Container { return w.template.Spec.Containers[0] }

func inspect(t *testing.T, objects []object) *world {
	t.Helper()
	w := &world{objects: objects, dir: t.TempDir()}
	w.services = all[corev1.Service](t, objects, "v1/Service")
	w.policies = all[networkingv1.NetworkPolicy](t, objects, "networking.k8s.io/v1/NetworkPolicy")
	w.budgets = all[policyv1.PodDisruptionBudget](t, objects, "policy/v1/PodDisruptionBudget")
	for _, o := range objects {
		made := workload{object: o, kind: o.text("kind"), replicas: 1}
		switch o.key() {
		case "apps/v1/Deployment":
			d := as[appsv1.Deployment](t, o)
			made.labels, made.template = d.Labels, d.Spec.Template
			made.recreate = d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType
			if d.Spec.Replicas != nil {
				made.replicas = *d.Spec.Replicas
			}
		case "apps/v1/StatefulSet":
			s := as[appsv1.StatefulSet](t, o)
			made.labels, made.template, made.replicas = s.Labels, s.Spec.Template, *s.Spec.Replicas
		case "serving.knative.dev/v1/Service":
			s := as[struct {
				Spec struct {
					Template struct {
						Spec struct{ TimeoutSeconds int64 }
					}
				}
			}](t, o)
			d := as[appsv1.Deployment](t, o) // has the same template
			made.labels, made.template = d.Labels, d.Spec.Template
			made.patience, w.serverless = time.Duration(s.Spec.Template.Spec.TimeoutSeconds)*time.Second, true
		default:
			continue
		}
		if made.template.Spec.TerminationGracePeriodSeconds != nil {
			made.patience = time.Duration(*made.template.Spec.TerminationGracePeriodSeconds) * time.Second
		}
		if o.namespace() == taskwire {
			made.program = o.name()
		}
		if len(made.template.Spec.Containers) == 0 {
			t.Fatalf("%s has no container", o)
		}
		w.workloads = append(w.workloads, made)
	}
	return w
}

// as decodes leniently: unknown members are found elsewhere, see strictly.
func as[T any](t *testing.T, o object) T {
	t.Helper()
	var v T
	if err := o.decode(&v); err != nil {
		t.Fatalf("%s: %v", o, err)
	}
	return v
}

func all[T any](t *testing.T, objects []object, key string) []T {
	t.Helper()
	var found []T
	for _, o := range objects {
		if o.key() == key {
			found = append(found, as[T](t, o))
		}
	}
	return found
}

// ours returns the workloads of the four services.
func (w *world) ours() []workload {
	return slices.DeleteFunc(slices.Clone(w.workloads), func(l workload) bool { return l.program == "" })
}

// of returns the objects of a kind.
func (w *world) of(kind string) []object {
	return slices.DeleteFunc(slices.Clone(w.objects), func(o object) bool { return o.text("kind") != kind })
}

// has reports whether an object of a kind exists.
func (w *world) has(kind, namespace, name string) bool {
	return slices.ContainsFunc(w.of(kind), func(o object) bool { return o.namespace() == namespace && o.name() == name })
}

// findings are the violations of a rule.
type findings []string

func (f *findings) addIf(wrong bool, format string, args ...any) {
	if wrong {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

// differ adds what only one of two lists has.
func (f *findings) differ(what string, have, want []string) {
	for _, h := range have {
		f.addIf(!slices.Contains(want, h), "%s: unwanted %s", what, h)
	}
	for _, x := range want {
		f.addIf(!slices.Contains(have, x), "%s: missing %s", what, x)
	}
}

func (f findings) String() string { return strings.Join(f, "\n") }
