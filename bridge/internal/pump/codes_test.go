package pump_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestEveryFetchCode: whatever a broker answers to a fetch for a while, everything is
// delivered once it answers with records again, once and in order. No code lets the bridge
// go on from another offset.
func TestEveryFetchCode(t *testing.T) {
	for _, code := range []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.ReplicaNotAvailable, kerr.BrokerNotAvailable,
		kerr.FencedLeaderEpoch, kerr.UnknownLeaderEpoch, kerr.OffsetNotAvailable, kerr.KafkaStorageError, kerr.RequestTimedOut,
		kerr.NetworkException, kerr.ThrottlingQuotaExceeded, kerr.UnknownServerError, kerr.CorruptMessage,
		kerr.UnknownTopicOrPartition, kerr.TopicAuthorizationFailed, kerr.OffsetOutOfRange, kerr.UnsupportedCompressionType,
		kerr.FetchSessionIDNotFound, kerr.InvalidFetchSessionEpoch, kerr.InconsistentTopicID, kerr.UnknownTopicID,
	} {
		t.Run(code.Message, func(t *testing.T) {
			s := newSink(t, func(string, int) int { return 204 })
			b := setup(t, s.server.URL)
			b.produce(events(20, 5)...)
			faults := b.broker.Cluster().Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "events", Err: code, Count: 3})
			_, stop := b.run()
			b.untilCommitted(20)
			stop()
			inOrder(t, s)
			if n := len(s.accepted()); n != 20 || faults.Hits() != 3 {
				t.Errorf("%d delivered after %d faults, want 20 after 3", n, faults.Hits())
			}
		})
	}
}
