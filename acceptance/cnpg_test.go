//go:build cluster

package acceptance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/freeport"
)

// TestCnpg fails PostgreSQL over while clients write, with the objects of
// components/postgres-cnpg and CloudNativePG's own operator: the primary is killed, another
// instance is promoted, a standby goes, the primary goes, both standbys stand still, and the
// primary is killed together with the standby that has what the other one lacks. Every change that was answered with 2xx must then be in the
// audit log exactly once, each task's in order. `make acceptance-cnpg`.
func TestCnpg(t *testing.T) {
	deployed, err := readDeployed(t.Context())
	if err != nil {
		t.Fatalf("no taskwire in this cluster (deploy it with `skaffold run`): %v", err)
	}
	if _, err := readDatabase(t.Context()); err != nil {
		t.Fatalf("no CloudNativePG in this cluster (make acceptance-cnpg): %v", err)
	}
	if err := errors.Join(deployed.empty(t.Context()), deployed.restore()); err != nil {
		t.Fatal(err)
	}
	w := &world{work: t.TempDir(), base: freeport.Base()}
	w.data, w.system = w.work, logOnly{}
	ports := startForward(namespace, "deployment/taskapi", w.address(8000), 8000)
	t.Cleanup(ports.stop)

	ctx, cancel := context.WithCancel(t.Context())
	clients := startClients(ctx, w, ports.again)
	defer func() { cancel(); clients.stop() }() // after a failure nothing answers them
	chosen := regexp.MustCompile(os.Getenv("CLUSTER_FAULTS"))
	for _, c := range []struct {
		what  string
		fault func(context.Context, database) error
	}{
		{"kill the primary", func(ctx context.Context, d database) error {
			return errors.Join(killPod(ctx, d.Primary), promoted(ctx, d.standbys()...))
		}},
		{"promote a standby", func(ctx context.Context, d database) error {
			return errors.Join(promote(ctx, d.standbys()[0]), promoted(ctx, d.standbys()[0]))
		}},
		{"delete a standby", func(ctx context.Context, d database) error {
			_, err := kubectl(ctx, "", "delete", "pod", d.standbys()[0], "-n", "postgres", "--wait")
			return err
		}},
		{"delete the primary", func(ctx context.Context, d database) error {
			_, err := kubectl(ctx, "", "delete", "pod", d.Primary, "-n", "postgres", "--wait")
			return errors.Join(err, promoted(ctx, d.Names...))
		}},
		{"no standby", clients.withoutStandby},
		{"kill all but one", clients.killAllButOne},
	} {
		if !chosen.MatchString(c.what) {
			continue
		}
		stop := clients.watchSilence()
		clients.during(t, c.what, func(ctx context.Context) error {
			d, err := readDatabase(ctx)
			if err == nil {
				err = c.fault(ctx, d)
			}
			if err != nil {
				return err
			}
			return healthy(ctx)
		})
		t.Logf("%-18s no change answered for %.1f s at most", c.what, stop().Seconds())
	}
	clients.stop()
	t.Logf("%d changes answered with 2xx, %d calls repeated, %d of them after 10 s", clients.count, clients.again, clients.unheard)

	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := poll(ctx, func() error { return w.auditLines(clients.count) }); err != nil {
		t.Error(err)
	}
	w.checkAudited(ctx, t, clients.acknowledged)
}

// killAllButOne kills the primary and one standby while the other one lacks changes that
// were answered. That one must not take over, and the others come back after a while.
func (c *clients) killAllButOne(ctx context.Context, d database) error {
	ahead, behind := d.standbys()[0], d.standbys()[1]
	release, err := holdBack(ctx, behind)
	if err != nil {
		return err
	}
	if err := streaming(ctx, d.Primary, 1); err != nil {
		return err
	}
	if err := c.progress(ctx, 50); err != nil {
		return err
	}
	nodes := func(verb string) error {
		names, err := kubectl(ctx, "", "get", "nodes", "-o", "name")
		if err == nil {
			_, err = kubectl(ctx, "", append([]string{verb}, strings.Fields(names)...)...)
		}
		return err
	}
	if err := nodes("cordon"); err != nil { // so that no pod comes back
		return err
	}
	err = errors.Join(killPod(ctx, d.Primary, ahead), release())
	for end := time.Now().Add(time.Minute); err == nil && time.Now().Before(end); pause(ctx) {
		var now database
		if now, err = readDatabase(ctx); err == nil && (now.Target == behind || now.Primary == behind) {
			err = fmt.Errorf("%s was promoted, which lacks changes that were answered: %s", behind, now.Phase)
		}
	}
	return errors.Join(err, nodes("uncordon"))
}

// withoutStandby stops both standbys for longer than the services wait for a COMMIT. No
// change and no repeat may be answered meanwhile.
func (c *clients) withoutStandby(ctx context.Context, d database) error {
	release := func() error { return nil }
	for _, name := range d.standbys() {
		one, err := holdBack(ctx, name)
		if err != nil {
			return err
		}
		before := release
		release = func() error { return errors.Join(before(), one()) }
	}
	err := streaming(ctx, d.Primary, 0)
	before, _ := c.look()
	for end := time.Now().Add(40 * time.Second); err == nil && time.Now().Before(end); pause(ctx) {
		if now, _ := c.look(); now > before {
			err = fmt.Errorf("%d changes were answered without a standby", now-before)
		}
	}
	return errors.Join(err, release())
}

// holdBack stops the process of a standby that receives changes.
func holdBack(ctx context.Context, name string) (release func() error, err error) {
	receiver, err := psql(ctx, name, "SELECT pid FROM pg_stat_wal_receiver")
	if err != nil {
		return nil, err
	}
	signal := func(sig string) error {
		_, err := kubectl(ctx, "", "exec", name, "-n", "postgres", "-c", "postgres", "--", "sh", "-c", "kill -"+sig+" "+receiver)
		return err
	}
	return func() error { return signal("CONT") }, signal("STOP")
}

// streaming waits until the primary sends its changes to so many standbys.
func streaming(ctx context.Context, primary string, want int) error {
	return poll(ctx, func() error {
		text, err := psql(ctx, primary, "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'quorum'")
		if err == nil && strings.TrimSpace(text) != strconv.Itoa(want) {
			err = fmt.Errorf("%s standbys stream, want %d", strings.TrimSpace(text), want)
		}
		return err
	})
}

// database is what the operator says of its instances.
type database struct {
	Phase          string
	Primary        string   `json:"currentPrimary"`
	Target         string   `json:"targetPrimary"`
	Names          []string `json:"instanceNames"`
	Instances      int
	ReadyInstances int
}

func readDatabase(ctx context.Context) (database, error) {
	text, err := kubectl(ctx, "", "get", "cluster", "postgres", "-n", "postgres", "-o", "json")
	if err != nil {
		return database{}, err
	}
	var made struct{ Status database }
	err = json.Unmarshal([]byte(text), &made)
	return made.Status, err
}

func (d database) standbys() []string {
	var names []string
	for _, name := range d.Names {
		if name != d.Primary {
			names = append(names, name)
		}
	}
	return names
}

// killPod ends pods as a crash does: no shutdown, no last checkpoint.
func killPod(ctx context.Context, names ...string) error {
	_, err := kubectl(ctx, "", append([]string{"delete", "pod", "-n", "postgres", "--grace-period=0", "--force"}, names...)...)
	return err
}

// promote does what `kubectl cnpg promote` does.
func promote(ctx context.Context, name string) error {
	status := fmt.Sprintf(`{"status": {"targetPrimary": %q, "targetPrimaryTimestamp": %q, "phase": "Switchover in progress", "phaseReason": "Switching over to %s"}}`,
		name, time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), name)
	_, err := kubectl(ctx, "", "patch", "cluster", "postgres", "-n", "postgres", "--subresource=status", "--type=merge", "-p", status)
	return err
}

// promoted waits until one of these is the primary.
func promoted(ctx context.Context, names ...string) error {
	return poll(ctx, func() error {
		d, err := readDatabase(ctx)
		if err == nil && (d.Primary != d.Target || !strings.Contains(" "+strings.Join(names, " ")+" ", " "+d.Primary+" ")) {
			err = fmt.Errorf("the primary is %s (%s is to be), want one of %v: %s", d.Primary, d.Target, names, d.Phase)
		}
		return err
	})
}

// healthy waits until all instances are ready and stream.
func healthy(ctx context.Context) error {
	var primary string
	var standbys int
	if err := poll(ctx, func() error {
		d, err := readDatabase(ctx)
		primary, standbys = d.Primary, d.Instances-1
		if err == nil && (d.ReadyInstances != d.Instances || d.Phase != "Cluster in healthy state") {
			err = fmt.Errorf("%d of %d instances are ready: %s", d.ReadyInstances, d.Instances, d.Phase)
		}
		return err
	}); err != nil {
		return err
	}
	return streaming(ctx, primary, standbys)
}

// psql runs statements as the superuser, in an instance's pod.
func psql(ctx context.Context, pod string, statements ...string) (string, error) {
	args := []string{"exec", pod, "-n", "postgres", "-c", "postgres", "--", "psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1"}
	for _, s := range statements {
		args = append(args, "-c", s)
	}
	return kubectl(ctx, "", args...)
}

// watchSilence measures the longest time without an answered change until it is stopped.
func (c *clients) watchSilence() (stop func() time.Duration) {
	end, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		var most time.Duration
		count, since := -1, time.Now()
		for {
			select {
			case <-end:
				longest <- max(most, time.Since(since))
				return
			case <-tick.C:
			}
			if now, _ := c.look(); now != count {
				most, count, since = max(most, time.Since(since)), now, time.Now()
			}
		}
	}()
	return func() time.Duration { close(end); return <-longest }
}
