package group_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/group"
)

// TestCoordinatorErrors: whatever a coordinator answers while it moves, loads or is
// overloaded, the member keeps its identity: the group never has a second, stale member,
// and no second generation after the first.
func TestCoordinatorErrors(t *testing.T) {
	joining := []kmsg.Key{kmsg.FindCoordinator, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.OffsetFetch}
	working := []kmsg.Key{kmsg.FindCoordinator, kmsg.Heartbeat, kmsg.OffsetCommit}
	codes := []*kerr.Error{
		kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.NotCoordinator,
		kerr.RequestTimedOut, kerr.NetworkException, kerr.BrokerNotAvailable, kerr.ThrottlingQuotaExceeded,
	}
	for _, code := range codes {
		for _, key := range joining {
			t.Run(fmt.Sprintf("join/%s/%s", key.Name(), code.Message), func(t *testing.T) {
				inWorld(t, 2, func(t *testing.T, w *world) {
					fault(t, w, key, code, 4)
					began := time.Now()
					r := w.member("").start()
					r.session(1)
					if took := time.Since(began); took > 3*time.Second {
						t.Errorf("joined after %v, want at most 3s", took)
					}
					r.alone(1)
				})
			})
		}
		for _, key := range working {
			t.Run(fmt.Sprintf("work/%s/%s", key.Name(), code.Message), func(t *testing.T) {
				inWorld(t, 2, func(t *testing.T, w *world) {
					r := w.member("").start()
					s := r.session(1)
					fault(t, w, key, code, 4)
					if err := s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 3}, 1: {Offset: 4}}); err != nil {
						t.Error(err)
					}
					time.Sleep(20 * time.Second)
					if state, err := r.State(); state != group.Stable || err != nil {
						t.Errorf("state %v, %v, want stable", state, err)
					}
					if !s.Confirmed() {
						t.Error("membership not confirmed after the faults")
					}
					commits := w.GroupInfo(name).Commits[topic]
					if commits[0].Offset != 3 || commits[1].Offset != 4 {
						t.Errorf("commits %v, want offsets 3 and 4", commits)
					}
					r.alone(1)
				})
			})
		}
	}
}

// fault makes the broker answer requests of one kind with code, n times. In a response with
// several error fields it sets the one that decides.
func fault(t *testing.T, w *world, key kmsg.Key, code *kerr.Error, n int) {
	t.Helper()
	w.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
		if n--; n < 0 {
			w.DropControl()
			return nil, nil, false
		}
		w.KeepControl()
		res := req.ResponseKind()
		switch res := res.(type) {
		case *kmsg.FindCoordinatorResponse:
			res.ErrorCode, res.NodeID = code.Code, -1
		case *kmsg.JoinGroupResponse:
			res.ErrorCode = code.Code
		case *kmsg.SyncGroupResponse:
			res.ErrorCode = code.Code
		case *kmsg.HeartbeatResponse:
			res.ErrorCode = code.Code
		case *kmsg.OffsetFetchResponse:
			res.ErrorCode = code.Code
		case *kmsg.LeaveGroupResponse:
			res.ErrorCode = code.Code
		case *kmsg.OffsetCommitResponse:
			for _, rt := range req.(*kmsg.OffsetCommitRequest).Topics {
				st := kmsg.NewOffsetCommitResponseTopic()
				st.Topic = rt.Topic
				for _, rp := range rt.Partitions {
					sp := kmsg.NewOffsetCommitResponseTopicPartition()
					sp.Partition, sp.ErrorCode = rp.Partition, code.Code
					st.Partitions = append(st.Partitions, sp)
				}
				res.Topics = append(res.Topics, st)
			}
		default:
			t.Errorf("no fault for %T", res)
		}
		return res, nil, true
	})
}

// alone checks that the member is the only one, had this number of generations, and leaves
// cleanly.
func (r *runner) alone(generations int) {
	r.w.t.Helper()
	if n := r.generations(); n != generations {
		r.w.t.Errorf("%d generations, want %d", n, generations)
	}
	if n := len(r.w.GroupInfo(name).Members); n != 1 {
		r.w.t.Errorf("%d members, want 1", n)
	}
	if err := r.stop(); err != nil {
		r.w.t.Error(err)
	}
	if n := len(r.w.GroupInfo(name).Members); n != 0 {
		r.w.t.Errorf("%d members left behind", n)
	}
}

// TestBrokerGone: the restart of a broker causes no rebalance. (The embedded broker's
// session timeout runs while it is down; a real one restarts the session, which
// TestKafkaBrokerGone covers.)
func TestBrokerGone(t *testing.T) {
	for _, away := range []time.Duration{100 * time.Millisecond, 2 * time.Second, 30 * time.Second} {
		for _, instance := range []string{"", "bridge-0"} {
			t.Run(fmt.Sprintf("%v/%q", away, instance), func(t *testing.T) {
				inWorld(t, 2, func(t *testing.T, w *world) {
					r := w.member(instance, session(45*time.Second)).start()
					s := r.session(1)
					w.restart(away)
					time.Sleep(5 * time.Second)
					if n := r.generations(); n != 1 {
						t.Errorf("%d generations, want 1", n)
					}
					if state, err := r.State(); state != group.Stable || err != nil {
						t.Errorf("state %v, %v, want stable", state, err)
					}
					if err := s.Commit(t.Context(), map[int]group.Offset{1: {Offset: 9}}); err != nil {
						t.Error(err)
					}
					if err := r.stop(); err != nil {
						t.Error(err)
					}
				})
			})
		}
	}
}

// TestBrokerGoneReported: while no heartbeat is answered State returns an error, and after
// a session timeout the session is no longer confirmed.
func TestBrokerGoneReported(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		r := w.member("").start()
		s := r.session(1)
		w.Close()
		time.Sleep(5 * time.Second)
		if _, err := r.State(); err == nil {
			t.Error("State returns no error after 5s without a broker")
		}
		if !s.Confirmed() {
			t.Error("not confirmed after 5s, the session timeout is 10s")
		}
		time.Sleep(7 * time.Second)
		if s.Confirmed() {
			t.Error("still confirmed after 12s, the session timeout is 10s")
		}
		w.start(w.dir, 2)
		if !r.session(2).Confirmed() {
			t.Error("not confirmed after the broker came back")
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestBrokerGoneUnready: a member is unready half a minute after its broker went, says so
// with the reason, and is ready again when it is back.
func TestBrokerGoneUnready(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		r := w.member("").start()
		r.session(1)
		if err := r.Ready(); err != nil {
			t.Errorf("with a broker: %v", err)
		}
		w.Close()
		time.Sleep(29 * time.Second)
		if err := r.Ready(); err != nil {
			t.Errorf("after 29s without a broker: %v", err)
		}
		time.Sleep(5 * time.Second)
		if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "no answer from Kafka for 3") || !strings.Contains(err.Error(), "heartbeat") {
			t.Errorf("after 34s without a broker: %v, want since when and why", err)
		}
		w.start(w.dir, 2)
		r.session(2)
		if err := r.Ready(); err != nil {
			t.Errorf("with the broker back: %v", err)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestBrokerGoneWhileJoining: a member that starts without a broker joins soon after the
// broker is back.
func TestBrokerGoneWhileJoining(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		w.Close()
		r := w.member("").start()
		time.Sleep(time.Minute)
		if state, err := r.State(); state != group.Joining || err == nil {
			t.Errorf("state %v, %v, want joining and an error", state, err)
		}
		w.start(w.dir, 2)
		began := time.Now()
		r.session(1)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("joined %v after the broker was back, want at most 3s", took)
		}
		r.alone(1)
	})
}

// TestSilentCoordinator: a heartbeat that is never answered is retried within the session.
func TestSilentCoordinator(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		r := w.member("").start()
		r.session(1)
		w.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, true })
		time.Sleep(30 * time.Second)
		r.alone(1)
	})
}

// TestDrain: a handler that drains for longer than a heartbeat interval, or than the
// session timeout, is still a member when it commits.
func TestDrain(t *testing.T) {
	for _, d := range []time.Duration{4 * time.Second, 25 * time.Second} {
		t.Run(d.String(), func(t *testing.T) {
			inWorld(t, 2, func(t *testing.T, w *world) {
				a := w.member("", drain(d), atEnd(func(ctx context.Context, s *group.Session) error {
					return s.Commit(ctx, map[int]group.Offset{0: {Offset: 11}})
				})).start()
				id := a.session(1).MemberID
				b := w.member("").start()
				sb := b.session(1)
				if again := a.session(2).MemberID; again != id {
					t.Errorf("member id %s, was %s", again, id)
				}
				for _, p := range append(a.session(2).Partitions, sb.Partitions...) {
					if p.ID == 0 && p.Offset != 11 {
						t.Errorf("next generation starts at %d, committed 11", p.Offset)
					}
				}
				_ = b.stop()
				if err := a.stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestWaitForDrain: a member that has joined again and waits for another one's drain for
// longer than the session timeout keeps its member id.
func TestWaitForDrain(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		slow := w.member("", drain(25*time.Second)).start()
		slow.session(1)
		fast := w.member("").start()
		id := fast.session(1).MemberID
		third := w.member("").start()
		third.session(1)
		if s := fast.session(2); s.MemberID != id || len(s.Partitions) != 1 {
			t.Errorf("member %s, was %s, partitions %v", s.MemberID, id, ids(s))
		}
		slow.drain = 0
		_, _, _ = slow.stop(), fast.stop(), third.stop()
	})
}

// TestUnanswered: a member stops waiting for the answer to a join or sync that the
// coordinator has never seen or no longer knows of.
func TestUnanswered(t *testing.T) {
	cases := map[string]struct {
		key    kmsg.Key
		again  bool          // in a second generation
		within time.Duration // two heartbeats, or for a sync the session and one
	}{
		"first join":  {kmsg.JoinGroup, false, 7 * time.Second},
		"first sync":  {kmsg.SyncGroup, false, 14 * time.Second},
		"second join": {kmsg.JoinGroup, true, 7 * time.Second},
		"second sync": {kmsg.SyncGroup, true, 14 * time.Second},
	}
	for what, c := range cases {
		t.Run(what, func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w *world) {
				began, generation := time.Now(), 1
				r := w.member("")
				if c.again {
					r.start()
					r.session(1)
					generation = 2
				}
				w.swallow(c.key)
				if c.again {
					w.grow(2)
					r.until(func() bool { return r.now == nil })
					began = time.Now()
				} else {
					r.start()
				}
				r.session(generation)
				if took := time.Since(began); took > c.within {
					t.Errorf("waited %v, want at most %v", took, c.within)
				}
				r.alone(generation)
			})
		})
	}
}

// swallow leaves one request unanswered. Of joins it takes one with a member id, since the
// coordinator answers a first one without waiting for others.
func (w *world) swallow(key kmsg.Key) {
	w.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
		join, ok := req.(*kmsg.JoinGroupRequest)
		return nil, nil, !ok || join.MemberID != ""
	})
}

// TestDrainOnStop: a stop drains under heartbeats, commits, and then leaves.
func TestDrainOnStop(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w *world) {
		a := w.member("", drain(22*time.Second), atEnd(func(ctx context.Context, s *group.Session) error {
			return s.Commit(ctx, map[int]group.Offset{0: {Offset: 5}})
		})).start()
		a.session(1)
		began := time.Now()
		if err := a.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 23*time.Second {
			t.Errorf("stopped after %v, want at most 23s", took)
		}
		info := w.GroupInfo(name)
		if got := info.Commits[topic][0].Offset; got != 5 || len(info.Members) != 0 {
			t.Errorf("committed %d with %d members left, want 5 and none", got, len(info.Members))
		}
	})
}

// TestDrainTooLong: past the rebalance timeout the group continues without the member,
// which learns of it, cannot commit, and joins again as a new member.
func TestDrainTooLong(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		var committed error
		a := w.member("", drain(2*time.Minute), atEnd(func(ctx context.Context, s *group.Session) error {
			committed = s.Commit(ctx, map[int]group.Offset{0: {Offset: 99}})
			return committed
		})).start()
		id := a.session(1).MemberID
		b := w.member("").start()
		if got := ids(b.session(1)); len(got) != 2 {
			t.Errorf("the other member got partitions %v, want both", got)
		}
		again := a.session(2)
		if again.MemberID == id {
			t.Error("joined again under the removed member id")
		}
		if !errors.Is(committed, group.ErrFenced) {
			t.Errorf("Commit = %v, want ErrFenced", committed)
		}
		if got := w.GroupInfo(name).Commits[topic][0].Offset; got == 99 {
			t.Error("the commit of a fenced member was stored")
		}
		_ = a.stop()
		_ = b.stop()
	})
}

// TestEviction: when the coordinator answers that the member or its generation is unknown,
// the session ends at once and the member joins again.
func TestEviction(t *testing.T) {
	for _, key := range []kmsg.Key{kmsg.Heartbeat, kmsg.OffsetCommit} {
		for _, code := range []*kerr.Error{kerr.UnknownMemberID, kerr.IllegalGeneration} {
			t.Run(key.Name()+"/"+code.Message, func(t *testing.T) {
				inWorld(t, 2, func(t *testing.T, w *world) {
					r := w.member("", drain(time.Hour)).start()
					s := r.session(1)
					fault(t, w, key, code, 1)
					if key == kmsg.OffsetCommit {
						if err := s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 1}}); !errors.Is(err, group.ErrFenced) {
							t.Errorf("Commit = %v, want ErrFenced", err)
						}
					}
					<-s.Lost()
					again := r.session(2)
					if cause := r.causes[0]; !errors.Is(cause, group.ErrFenced) {
						t.Errorf("cause %v, want ErrFenced", cause)
					}
					if err := s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 1}}); !errors.Is(err, group.ErrFenced) {
						t.Errorf("Commit after the session = %v, want ErrFenced", err)
					}
					if kept := again.MemberID == s.MemberID; kept != (code == kerr.IllegalGeneration) {
						t.Errorf("%s: member id kept: %t", code.Message, kept)
					}
					r.drain = 0
					_ = r.stop()
				})
			})
		}
	}
}

// TestReplaced: of two processes with one instance id the older ends instead of joining
// again.
func TestReplaced(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w *world) {
		old := w.member("bridge-0").start()
		old.session(1)
		young := w.member("bridge-0").start()
		young.session(1)
		<-old.done
		if !errors.Is(old.err, group.ErrReplaced) || !strings.Contains(old.err.Error(), "bridge-0") {
			t.Errorf("Run = %v, want ErrReplaced with the instance id", old.err)
		}
		time.Sleep(time.Minute)
		if n := young.generations(); n != 1 {
			t.Errorf("the younger had %d generations, want 1", n)
		}
		_ = young.stop()
	})
}

func session(timeout time.Duration) func(*group.Config, *runner) {
	return func(cfg *group.Config, _ *runner) { cfg.SessionTimeout = timeout }
}

func atEnd(fn func(context.Context, *group.Session) error) func(*group.Config, *runner) {
	return func(_ *group.Config, r *runner) { r.atEnd = fn }
}
