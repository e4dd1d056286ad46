package app_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/kafkatest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/volume/volumetest"
)

// withPostgres makes the programs of the fixture replicas.
func (f *fixture) withPostgres(db *pgtest.Database) *fixture {
	f.settings["DATABASE_URL"] = db.URL
	return f
}

// Replicas are killed while clients change tasks through all of them. Every
// acknowledged change is in the topic, in order, and the topic has nothing else.
func TestReplicasLoseNothingWhenKilled(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 2)
	db := pgtest.Start(t)
	f := newFixture(t, cluster.Brokers, topic).withPostgres(db)
	var k acknowledged
	survivor, other := f.program()
	for round := range 4 {
		program, base := f.program()
		before := k.count()
		var wg sync.WaitGroup
		for i := range 8 {
			base := []string{base, other}[i%2]
			wg.Go(func() {
				for k.lifetime(base) == nil && k.count() < before+400 {
				}
			})
		}
		apptest.Await(t, "tasks are made", func() bool { return k.count() >= before+100+40*round })
		if round == 2 {
			survivor.Signal(os.Kill) // the one whose relay publishes
			survivor.Exit()
			survivor, other = program, base
		} else {
			program.Signal(os.Kill)
			program.Exit()
		}
		wg.Wait()
	}
	if status := survivor.Terminate(); status != 0 {
		t.Errorf("exit status after SIGTERM = %d, want 0", status)
	}
	f.check(&k, f.inTopic(cluster.Client(t), topic, 2))
}

// The replica whose relay publishes is stopped with SIGSTOP, so that its
// connection stays open. Another goes on, and what the first does when it comes back changes no order.
func TestARelayThatComesBack(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 2)
	f := newFixture(t, cluster.Brokers, topic).withPostgres(pgtest.Start(t))
	var k acknowledged
	var programs [2]*apptest.Process
	var bases [2]string
	for i := range programs {
		programs[i], bases[i] = f.program()
	}
	leads := func(i int) int { return programs[i].Count("relay of this process publishes") }
	apptest.Await(t, "one publishes", func() bool { return leads(0)+leads(1) == 1 })
	for round := range 2 {
		first := 0
		if leads(1) > leads(0) {
			first = 1
		}
		if round == 1 {
			first = 1 - first // the one that has taken over
		}
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := k.lifetime(bases[1-first]); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Go(func() { _ = k.lifetime(bases[first]) })
		before := leads(1 - first)
		programs[first].Signal(syscall.SIGSTOP)
		apptest.Await(t, "the other goes on", func() bool { return leads(1-first) > before })
		count := k.count()
		apptest.Await(t, "more is changed", func() bool { return k.count() > count+50 })
		programs[first].Signal(syscall.SIGCONT)
		apptest.Await(t, "it has noticed", func() bool { return programs[first].Count("relay has no session with PostgreSQL") > 0 })
		close(stop)
		wg.Wait()
	}
	for _, p := range programs {
		if status := p.Terminate(); status != 0 {
			t.Errorf("exit status after SIGTERM = %d, want 0", status)
		}
	}
	f.check(&k, f.inTopic(cluster.Client(t), topic, 2))
}

// Two programs get the same request under the same key at the same time.
func TestAKeyHoldsAcrossPrograms(t *testing.T) {
	cluster := kafkatest.Start(t)
	topic := cluster.Topic(t, 1)
	f := newFixture(t, cluster.Brokers, topic).withPostgres(pgtest.Start(t))
	one, first := f.program()
	two, second := f.program()
	for i := range 50 {
		var bodies [2]string
		var wg sync.WaitGroup
		for r, base := range []string{first, second} {
			wg.Go(func() {
				req, err := http.NewRequest("POST", base+"/tasks", strings.NewReader(`{"title": "x"}`))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Idempotency-Key", fmt.Sprint(i))
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				body, _ := io.ReadAll(resp.Body)
				bodies[r] = fmt.Sprint(resp.StatusCode, resp.Header.Get("ETag"), string(body))
			})
		}
		wg.Wait()
		if bodies[0] != bodies[1] || !strings.HasPrefix(bodies[0], "201") {
			t.Fatalf("answers %s and %s", bodies[0], bodies[1])
		}
	}
	if one.Terminate() != 0 || two.Terminate() != 0 {
		t.Error("a stop was not clean")
	}
	if n := len(f.inTopic(cluster.Client(t), topic, 1)); n != 50 {
		t.Errorf("%d tasks in the topic, want 50", n)
	}
}

// A database that is not up yet is waited for, and its password is nowhere.
func TestADatabaseThatIsNotUpYet(t *testing.T) {
	server := pgtest.StartOwn(t)
	db := server.Database(t)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, []string{"127.0.0.1:1"}, "task-events").withPostgres(db)
	f.settings["SHUTDOWN_GRACE"] = "1s"
	p, base := f.program()
	status, _, body := volumetest.Call(t, "GET", base+"/readyz", "", "")
	if status != 503 || !strings.HasPrefix(body, "task store: DATABASE_URL: connect to PostgreSQL at 127.0.0.1:") {
		t.Errorf("readyz: %d %q", status, body)
	}
	if status, retryAfter, _ := volumetest.Call(t, "POST", base+"/tasks", "application/json", `{"title": "early"}`); status != 503 || retryAfter == "" {
		t.Errorf("a post: %d Retry-After %q", status, retryAfter)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	volumetest.AwaitReady(t, base)
	if status, _, body := volumetest.Call(t, "POST", base+"/tasks", "application/json", `{"title": "late"}`); status != 201 {
		t.Errorf("a post after that: %d %s", status, body)
	}
	if err := server.Immediate(); err != nil {
		t.Fatal(err)
	}
	apptest.Await(t, "it is not ready", func() bool {
		status, _, body := volumetest.Call(t, "GET", base+"/readyz", "", "")
		return status == 503 && strings.Contains(body, "PostgreSQL")
	})
	if status, _, _ := volumetest.Call(t, "GET", base+"/healthz", "", ""); status != 200 {
		t.Errorf("healthz: %d; a restart would not help", status)
	}
	if status, _, body := volumetest.Call(t, "POST", base+"/tasks", "application/json", `{"title": "down"}`); status != 503 {
		t.Errorf("a post without a database: %d %s", status, body)
	}
	began := time.Now()
	if status := p.Terminate(); status != 0 || time.Since(began) > 10*time.Second {
		t.Errorf("SIGTERM without a database: exit %d after %v", status, time.Since(began))
	}
	if p.Count("database unavailable, retrying every second") != 1 || p.Count("database available, service ready") != 1 || strings.Contains(p.Log(), server.Password()) {
		t.Errorf("log:\n%s", p.Log())
	}
}
