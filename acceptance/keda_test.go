//go:build cluster

package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/taskwire/taskwire/internal/freeport"
)

// TestKeda has KEDA scale the bridge of the overlay kind, with the objects of
// components/keda: a sink that is down starts no bridges, lag that is being worked off
// starts one for each partition, and afterwards one is left. `make acceptance-keda`.
func TestKeda(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	deployed, err := readDeployed(ctx)
	if err != nil {
		t.Fatalf("no taskwire in this cluster (deploy it with `skaffold run`): %v", err)
	}
	if err := deployed.empty(ctx); err != nil {
		t.Fatal(err)
	}
	const partitions = 4
	if err := topicOf(ctx, partitions); err != nil {
		t.Fatal(err)
	}
	slow, err := slowly(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { slow.undo(t) }()
	if err := errors.Join(deployed.restore(), deployed.set(ctx, "notifier", 0, nil)); err != nil {
		t.Fatal(err)
	}
	// A notifier that is stopping still takes events.
	if _, err := kubectl(ctx, "", "wait", "pod", "-n", namespace, "-l", "app.kubernetes.io/name=notifier", "--for=delete", "--timeout=60s"); err != nil {
		t.Fatal(err)
	}
	if err := applyKeda(ctx); err != nil {
		t.Fatal(err)
	}
	w := &world{work: t.TempDir(), base: freeport.Base()}
	ports := startForward(namespace, "deployment/taskapi", w.address(8000), 8000)
	t.Cleanup(ports.stop)

	if err := errors.Join(kedaLooks(ctx, partitions), bridgesAre(ctx, 1)); err != nil {
		t.Fatal(err)
	}
	const clients, changes = 8, 150
	began := time.Now()
	var all errgroup.Group
	for client := range clients {
		all.Go(func() error {
			for n := range changes {
				if err := poll(ctx, func() error {
					code, answer, err := w.call(ctx, "POST", "/tasks", fmt.Sprintf("keda-%d-%d", client, n), `{"title": "Lag"}`)
					if err == nil && code != 201 {
						err = fmt.Errorf("POST /tasks: %d %s", code, answer)
					}
					return err
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tasks in %.0f s, and no notifier", clients*changes, time.Since(began).Seconds())

	// The scaler asks every 5 s, and the autoscaler every 15 s.
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); pause(ctx) {
		if n, err := bridges(ctx); err != nil || n != 1 {
			t.Fatalf("%d bridges for a sink that is down, want 1: %v", n, err)
		}
	}
	t.Log("90 s with a sink that is down: one bridge")
	if err := deployed.set(ctx, "notifier", 1, nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int{partitions, 1} {
		began := time.Now()
		if err := bridgesAre(ctx, want); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d bridges after %.0f s", want, time.Since(began).Seconds())
	}
}

// bridgesAre waits until so many bridges are wanted.
func bridgesAre(ctx context.Context, want int) error {
	return poll(ctx, func() error {
		n, err := bridges(ctx)
		if err == nil && n != want {
			err = fmt.Errorf("%d bridges, want %d", n, want)
		}
		return err
	})
}

// bridges is how many bridges are wanted.
func bridges(ctx context.Context) (int, error) {
	text, err := kubectl(ctx, "", "get", "deployment", "bridge", "-n", namespace, "-o", "jsonpath={.spec.replicas}")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// topicOf gives the empty system's topic this many partitions.
func topicOf(ctx context.Context, partitions int) error {
	tool := []string{"exec", kafkaPod, "-n", kafkaNamespace, "--", "bin/kafka-topics.sh", "--bootstrap-server", "localhost:9092"}
	_, err := kubectl(ctx, "", append(tool, "--delete", "--topic", "task-events", "--if-exists")...)
	if err != nil {
		return err
	}
	return poll(ctx, func() error { // until the deletion is through
		_, err := kubectl(ctx, "", append(tool, "--create", "--topic", "task-events", "--partitions", strconv.Itoa(partitions), "--replication-factor", "1")...)
		return err
	})
}

// slowBridge has another configuration mounted.
type slowBridge struct{ before string }

// slowly makes each bridge post 5 notifications a second, so that the lag lasts.
func slowly(ctx context.Context, dir string) (*slowBridge, error) {
	name, err := kubectl(ctx, "", "get", "deployment", "bridge", "-n", namespace, "-o", "jsonpath={.spec.template.spec.volumes[0].configMap.name}")
	if err != nil {
		return nil, err
	}
	text, err := kubectl(ctx, "", "get", "configmap", name, "-n", namespace, "-o", `jsonpath={.data.bridge\.yaml}`)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "bridge.yaml")
	text = strings.Replace(text, "mode: auto", "mode: structured\n    rate: 5", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	made, err := kubectl(ctx, "", "create", "configmap", "bridge-slow", "-n", namespace, "--from-file="+file, "--dry-run=client", "-o", "yaml")
	if err != nil {
		return nil, err
	}
	if _, err := kubectl(ctx, made, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	return &slowBridge{name}, mountConfig(ctx, "bridge-slow")
}

func mountConfig(ctx context.Context, name string) error {
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/template/spec/volumes/0/configMap/name", "value": %q}]`, name)
	_, err := kubectl(ctx, "", "patch", "deployment", "bridge", "-n", namespace, "--type=json", "-p", patch)
	return err
}

func (s *slowBridge) undo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	_, err := kubectl(ctx, "", "delete", "scaledobject", "bridge", "-n", namespace, "--ignore-not-found")
	if err = errors.Join(err, mountConfig(ctx, s.before)); err != nil {
		t.Error(err)
	}
}

// applyKeda applies what components/keda adds to the overlay kind, with less patience
// than a user wants.
func applyKeda(ctx context.Context) error {
	dir, err := os.MkdirTemp("testdata", "keda")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	text := `
resources: [../../../manifests/overlays/kind]
components: [../../../manifests/components/keda]
patches:
  - target: {kind: ScaledObject, name: bridge}
    patch: |-
      - {op: add, path: /spec/pollingInterval, value: 5}
      - op: add
        path: /spec/advanced
        value: {horizontalPodAutoscalerConfig: {behavior: {scaleDown: {stabilizationWindowSeconds: 15}}}}
      - {op: replace, path: /spec/triggers/0/metadata/lagThreshold, value: "100"}
      - {op: replace, path: /spec/triggers/1/metadata/lagThreshold, value: "100"}
`
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	all, err := kubectl(ctx, "", "kustomize", dir)
	if err != nil {
		return err
	}
	for doc := range strings.SplitSeq(all, "\n---\n") {
		if !strings.Contains(doc, "keda.sh/") && !strings.Contains(doc, "name: kafka-from-keda") {
			continue
		}
		if _, err := kubectl(ctx, doc, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

// kedaLooks has KEDA look at the lag of both groups. Its first look at a committed offset
// takes any lag for one that is being worked off; the next one sees who stands still.
func kedaLooks(ctx context.Context, partitions int) error {
	for i, group := range []string{"notification-service", "audit-service"} {
		if err := poll(ctx, func() error {
			table, err := kubectl(ctx, "", "exec", kafkaPod, "-n", kafkaNamespace, "--", "bin/kafka-consumer-groups.sh", "--bootstrap-server", "localhost:9092", "--describe", "--group", group)
			if n := strings.Count(table, " task-events "); err == nil && n < partitions || strings.Contains(table, " - ") {
				err = fmt.Errorf("%s has not committed %d partitions yet: %s", group, partitions, table)
			}
			return err
		}); err != nil {
			return err
		}
		metric := fmt.Sprintf("/apis/external.metrics.k8s.io/v1beta1/namespaces/%s/s%d-kafka-task-events?labelSelector=scaledobject.keda.sh%%2Fname%%3Dbridge", namespace, i)
		if err := poll(ctx, func() error {
			_, err := kubectl(ctx, "", "get", "--raw", metric)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}
