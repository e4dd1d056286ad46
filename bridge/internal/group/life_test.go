package group_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/group"
)

// TestStaticRestart: a static member that is killed and started again gets its partitions
// back at once, whether it led the group or not, and the other member sees no rebalance.
func TestStaticRestart(t *testing.T) {
	for _, killed := range []int{0, 1} { // bridge-0 came first and leads
		t.Run(fmt.Sprintf("bridge-%d", killed), func(t *testing.T) {
			inWorld(t, 4, func(t *testing.T, w *world) {
				a := w.member("bridge-0").start()
				a.session(1)
				b := w.member("bridge-1").start()
				b.session(1)
				a.session(2)
				members, names := []*runner{a, b}, []string{"bridge-0", "bridge-1"}
				victim, other := members[killed], members[1-killed]
				before, generation := victim.now.Claim, other.generations()

				victim.kill()
				began := time.Now()
				again := w.member(names[killed]).start()
				s := again.session(1)
				if took := time.Since(began); took > time.Second {
					t.Errorf("joined again after %v, want at most 1s", took)
				}
				if s.Generation != before.Generation || !slices.Equal(s.Partitions, before.Partitions) {
					t.Errorf("claim %+v, was %+v", s.Claim, before)
				}
				time.Sleep(time.Minute)
				if other.generations() != generation {
					t.Error("the other member had a rebalance")
				}
				_, _ = again.stop(), other.stop()
				<-victim.done
			})
		})
	}
}

// kill disconnects the member from its broker, as a SIGKILL does: it does not leave the
// group, and no heartbeat follows.
func (r *runner) kill() {
	r.cut()
	r.cancel()
	<-r.done
}

// cut closes every connection to the brokers and lets no new one succeed.
func (r *runner) cut() {
	r.dead.Store(true)
	r.transport.CloseIdleConnections()
	for _, c := range r.conns.all() {
		_ = c.Close()
	}
}

// TestStaticStop: a static member that stops leaves as any other does, and the others take
// over long before the session timeout. That is the course of a rolling update, whose new
// pod has another name and joins before the old one stops.
func TestStaticStop(t *testing.T) {
	inWorld(t, 4, func(t *testing.T, w *world) {
		old := w.member("bridge-0", session(45*time.Second)).start()
		old.session(1)
		began := time.Now()
		young := w.member("bridge-1", session(45*time.Second)).start()
		young.session(1)
		old.session(2)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("joined after %v, with a heartbeat of 3s", took)
		}
		began = time.Now()
		if err := old.stop(); err != nil {
			t.Error(err)
		}
		if s := young.session(2); len(s.Partitions) != 4 {
			t.Errorf("partitions %v", ids(s))
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("took over after %v, with a heartbeat of 3s", took)
		}
		young.alone(2)
	})
}

// TestStaticStopBeforeItKnows: a static member that another has replaced, and that stops
// before it learns of that, does not remove the other from the group.
func TestStaticStopBeforeItKnows(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		old := w.member("bridge-0").start()
		old.session(1)
		young := w.member("bridge-0").start()
		young.session(1)
		if err := old.stop(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		young.alone(1)
	})
}

// TestDynamicKill shows what a SIGKILL costs without an instance id: the session timeout.
func TestDynamicKill(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a := w.member("").start()
		a.session(1)
		a.kill()
		began := time.Now()
		b := w.member("").start()
		b.session(1)
		if took := time.Since(began); took > 11*time.Second {
			t.Errorf("took over after %v, with a session timeout of 10s", took)
		}
		_ = b.stop()
	})
}

// TestMorePartitions: partitions added to the topic are assigned within seconds, also when
// the leader is static and was restarted before, or while, they were added.
func TestMorePartitions(t *testing.T) {
	cases := map[string]struct {
		instance                string
		restartFirst, whileAway bool
	}{
		"dynamic":                   {"", false, false},
		"static":                    {"bridge-0", false, false},
		"static, restarted":         {"bridge-0", true, false},
		"static, while it was down": {"bridge-0", true, true},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w *world) {
				r := w.member(c.instance).start()
				r.session(1)
				if c.restartFirst {
					r.kill()
					if c.whileAway {
						w.grow(3)
					}
					r = w.member(c.instance).start()
				}
				if !c.whileAway {
					r.session(1)
					w.grow(3)
				}
				began := time.Now()
				r.until(func() bool { return r.now != nil && len(r.now.Partitions) == 3 })
				n := r.generations() // one or two: the member may notice new partitions before it calls the handler
				if took := time.Since(began); took > 15*time.Second {
					t.Errorf("noticed the partitions after %v, want at most 15s", took)
				}
				time.Sleep(time.Minute)
				if r.generations() != n {
					t.Errorf("%d generations, want %d", r.generations(), n)
				}
				_ = r.stop()
			})
		})
	}
}

func (w *world) grow(partitions int32) {
	w.t.Helper()
	transport := &kafkago.Transport{Dial: w.net.DialContext}
	defer transport.CloseIdleConnections()
	client := &kafkago.Client{Addr: kafkago.TCP("localhost:9092"), Transport: transport, Timeout: 10 * time.Second}
	res, err := client.CreatePartitions(context.Background(), &kafkago.CreatePartitionsRequest{
		Topics: []kafkago.TopicPartitionsConfig{{Name: topic, Count: partitions}},
	})
	if err != nil || res.Errors[topic] != nil {
		w.t.Fatal(err, res)
	}
}

// TestTopicComesLater: a member of a topic that does not exist waits for it.
func TestTopicComesLater(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		if err := w.DeleteTopic(topic); err != nil {
			t.Fatal(err)
		}
		r := w.member("").start()
		if got := ids(r.session(1)); len(got) != 0 {
			t.Errorf("partitions %v of a missing topic", got)
		}
		if err := w.CreateTopic(topic, 2, nil); err != nil {
			t.Fatal(err)
		}
		if got := ids(r.session(2)); len(got) != 2 {
			t.Errorf("partitions %v, want two", got)
		}
		_ = r.stop()
	})
}

// TestStopInterrupts: a stop waits neither for a join that waits for other members nor for
// an unavailable broker; where a broker is available, the member leaves the group.
func TestStopInterrupts(t *testing.T) {
	for _, instance := range []string{"", "bridge-0"} {
		t.Run("join/"+instance, func(t *testing.T) {
			inWorld(t, 2, func(t *testing.T, w *world) {
				a := w.member("", drain(25*time.Second)).start()
				a.session(1)
				b := w.member(instance).start()
				time.Sleep(5 * time.Second)
				began := time.Now()
				if err := b.stop(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > 100*time.Millisecond {
					t.Errorf("stopped after %v, want at most 100ms", took)
				}
				if got := ids(a.session(2)); len(got) != 2 {
					t.Errorf("partitions %v after the other stopped, want both", got)
				}
				a.drain = 0
				_ = a.stop()
			})
		})
	}
	t.Run("no broker", func(t *testing.T) {
		inWorld(t, 2, func(t *testing.T, w *world) {
			a := w.member("").start()
			a.session(1)
			w.Close()
			began := time.Now()
			if err := a.stop(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("stopped after %v, want at most 4s", took)
			}
			w.start(w.dir, 2)
		})
	})
}

// TestLeaveAnswer: the answer to LeaveGroup is read, and a retriable one is retried.
func TestLeaveAnswer(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		a := w.member("").start()
		a.session(1)
		fault(t, w, kmsg.LeaveGroup, kerr.NotCoordinator, 2)
		a.alone(1)

		b := w.member("").start()
		b.session(1)
		fault(t, w, kmsg.LeaveGroup, kerr.GroupAuthorizationFailed, 1)
		if err := b.stop(); err != nil {
			t.Error(err)
		}
		if !strings.Contains(w.logged(), "leave group readers") {
			t.Error("a refused leave is not logged")
		}
	})
}

// TestHandlerEnds: the error of a handler ends Run, which leaves the group; a handler that
// returns without one gets the partitions again.
func TestHandlerEnds(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		broken := errors.New("broken")
		calls := 0
		r := w.member("")
		err := r.Run(t.Context(), func(context.Context, *group.Session) error {
			if calls++; calls < 3 {
				return nil
			}
			return broken
		})
		r.transport.CloseIdleConnections()
		if !errors.Is(err, broken) || calls != 3 {
			t.Errorf("Run = %v after %d calls, want the handler's error after 3", err, calls)
		}
		if n := len(w.GroupInfo(name).Members); n != 0 {
			t.Errorf("%d members left behind", n)
		}
	})
}

// TestCommit: a refused partition is reported, the others are stored, and refused metadata
// does not keep an offset from being stored.
func TestCommit(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		r := w.member("").start()
		s := r.session(1)
		err := s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 5}, 7: {Offset: 1}})
		if err == nil || errors.Is(err, group.ErrFenced) || !strings.Contains(err.Error(), "partition 7") {
			t.Errorf("Commit of a missing partition = %v, want an error that names it", err)
		}
		fault(t, w, kmsg.OffsetCommit, kerr.OffsetMetadataTooLarge, 1)
		if err := s.Commit(t.Context(), map[int]group.Offset{1: {Offset: 6, Metadata: "seal and map", Short: "seal"}}); err != nil {
			t.Error(err)
		}
		commits := w.GroupInfo(name).Commits[topic]
		if commits[0].Offset != 5 || commits[1].Offset != 6 || commits[1].Metadata != "seal" {
			t.Errorf("commits %v, want 5, and 6 with the short metadata", commits)
		}

		w.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		began := time.Now()
		if err := s.Commit(ctx, map[int]group.Offset{0: {Offset: 8}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Commit without a broker = %v, want DeadlineExceeded", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("Commit returned after %v, want 3s", took)
		}
		w.start(w.dir, 2)
		_ = r.stop()
	})
}

// TestOtherClients: a member shares a group with a consumer of another library that uses
// Java's range assignor, whichever of the two leads.
func TestOtherClients(t *testing.T) {
	for _, oursFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("ours leads %t", oursFirst), func(t *testing.T) {
			inWorld(t, 5, func(t *testing.T, w *world) {
				r := w.member("")
				if oursFirst {
					r.start()
					r.session(1)
				}
				given := make(chan []int32, 10)
				theirs, err := kgo.NewClient(
					kgo.SeedBrokers("localhost:9092"), kgo.Dialer(w.net.DialContext),
					kgo.ConsumerGroup(name), kgo.ConsumeTopics(topic), kgo.Balancers(kgo.RangeBalancer()),
					kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, got map[string][]int32) { given <- got[topic] }),
				)
				if err != nil {
					t.Fatal(err)
				}
				generation := 2
				if !oursFirst {
					<-given
					r.start()
					generation = 1
				}
				s := r.session(generation)
				all := ids(s)
				for _, p := range <-given {
					all = append(all, int(p))
				}
				slices.Sort(all)
				if !slices.Equal(all, []int{0, 1, 2, 3, 4}) || len(s.Partitions) < 2 {
					t.Errorf("ours %v, all %v, want all five, shared out evenly", ids(s), all)
				}
				theirs.Close()
				if got := ids(r.session(generation + 1)); len(got) != 5 {
					t.Errorf("partitions %v after the other left, want all five", got)
				}
				_ = r.stop()
			})
		})
	}
}
