package group_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/group"
)

// outcome is what a member does about a code.
type outcome string

const (
	again    outcome = "asks again"          // under the same member id, and says so
	quietly  outcome = "asks again quietly"  // it is part of the protocol
	anew     outcome = "joins as a new one"  // under a new member id
	rejoins  outcome = "joins again"         // under the same member id
	replaced outcome = "ends"                // another process has its instance id
	refuses  outcome = "returns the refusal" // of this partition, and works on
)

// TestEveryCode: what a member does about each code that a broker may answer to each of
// its requests. TestCoordinatorErrors has those of a coordinator that moves.
func TestEveryCode(t *testing.T) {
	persistent := []*kerr.Error{ // an operator has to do something: until then they are reported, and tried again
		kerr.GroupAuthorizationFailed, kerr.InvalidGroupID, kerr.UnknownServerError, kerr.UnsupportedVersion,
		kerr.ClusterAuthorizationFailed, kerr.PolicyViolation,
	}
	cases := map[kmsg.Key]map[*kerr.Error]outcome{
		kmsg.JoinGroup: {
			kerr.InconsistentGroupProtocol: again, kerr.InvalidSessionTimeout: again, kerr.GroupMaxSizeReached: again,
			kerr.RebalanceInProgress: quietly, kerr.UnknownMemberID: anew, kerr.FencedInstanceID: replaced,
		},
		kmsg.SyncGroup: {
			kerr.InconsistentGroupProtocol: again, kerr.IllegalGeneration: again, kerr.RebalanceInProgress: quietly,
			kerr.UnknownMemberID: anew, kerr.FencedInstanceID: replaced,
		},
		kmsg.OffsetFetch: {kerr.UnknownTopicOrPartition: again, kerr.UnstableOffsetCommit: again, kerr.TopicAuthorizationFailed: again},
		kmsg.Heartbeat: {
			kerr.RebalanceInProgress: rejoins, kerr.IllegalGeneration: rejoins, kerr.UnknownMemberID: anew, kerr.FencedInstanceID: replaced,
		},
		kmsg.OffsetCommit: {
			kerr.RebalanceInProgress: quietly, kerr.IllegalGeneration: rejoins, kerr.UnknownMemberID: anew, kerr.FencedInstanceID: replaced,
			kerr.OffsetMetadataTooLarge: refuses, kerr.InvalidCommitOffsetSize: refuses, kerr.TopicAuthorizationFailed: refuses,
			kerr.UnknownTopicOrPartition: refuses,
		},
	}
	for key, codes := range cases {
		for _, code := range persistent {
			if codes[code] = again; key == kmsg.OffsetCommit {
				codes[code] = refuses
			}
		}
		for code, want := range codes {
			t.Run(key.Name()+"/"+code.Message, func(t *testing.T) {
				inWorld(t, 2, func(t *testing.T, w *world) {
					if key == kmsg.Heartbeat || key == kmsg.OffsetCommit {
						atWork(t, w, key, code, want)
					} else {
						atJoin(t, w, key, code, want)
					}
				})
			})
		}
	}
}

func atJoin(t *testing.T, w *world, key kmsg.Key, code *kerr.Error, want outcome) {
	n := 3
	if want == again {
		n = 1000
	}
	fault(t, w, key, code, n)
	r := w.member("bridge-0").start()
	switch want {
	case again:
		// Not at a multiple of three seconds: a heartbeat that is answered then takes the
		// failure of another request back until that fails again, half a second later at most.
		time.Sleep(14 * time.Second)
		if state, err := r.State(); state != group.Joining || !errors.Is(err, kafkago.Error(code.Code)) {
			t.Errorf("state %v, %v, want joining and the broker's answer", state, err)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		w.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, nil, false })
	case anew, quietly:
		r.session(1)
		r.alone(1)
		if want == quietly && strings.Contains(w.logged(), "WARN") {
			t.Error("part of the protocol is logged as a failure")
		}
	case replaced:
		<-r.done
		if !errors.Is(r.err, group.ErrReplaced) || !strings.Contains(r.err.Error(), "KAFKA_GROUP_INSTANCE_ID") {
			t.Errorf("Run = %v, want ErrReplaced, which names the setting", r.err)
		}
	}
}

func atWork(t *testing.T, w *world, key kmsg.Key, code *kerr.Error, want outcome) {
	r := w.member("bridge-0").start()
	s := r.session(1)
	fault(t, w, key, code, 1)
	var err error
	if key == kmsg.OffsetCommit {
		err = s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 3}})
	} else {
		time.Sleep(5 * time.Second)
	}
	switch want {
	case again, quietly:
		if err != nil {
			t.Error(err)
		}
		r.alone(1)
	case refuses:
		if !errors.Is(err, kafkago.Error(code.Code)) || errors.Is(err, group.ErrFenced) || !strings.Contains(err.Error(), "partition 0") {
			t.Errorf("Commit = %v, want the refusal of partition 0", err)
		}
		if err := s.Commit(t.Context(), map[int]group.Offset{0: {Offset: 3}}); err != nil {
			t.Errorf("the next Commit = %v", err)
		}
		r.alone(1)
	case rejoins, anew:
		if key == kmsg.OffsetCommit && !errors.Is(err, group.ErrFenced) {
			t.Errorf("Commit = %v, want ErrFenced", err)
		}
		next := r.session(2)
		if kept := next.MemberID == s.MemberID; key == kmsg.Heartbeat && kept != (want == rejoins) {
			t.Errorf("member id kept: %t", kept)
		}
		r.alone(2)
	case replaced:
		<-r.done
		if !errors.Is(r.err, group.ErrReplaced) {
			t.Errorf("Run = %v, want ErrReplaced", r.err)
		}
	}
}
