package group

import (
	"errors"

	kafkago "github.com/segmentio/kafka-go"
)

// ErrFenced says that the generation is over and its partitions may belong to another
// member by now: nothing can be committed any more.
var ErrFenced = errors.New("no longer a member of the consumer group")

// ErrReplaced says that another process joined the group with the same instance id. Run
// ends with it: joining again would throw the other one out, which would do the same,
// without end.
var ErrReplaced = errors.New("another process uses the same group instance id")

// ErrRebalance is the cause of the end of a handler's context when the group deals its
// partitions out anew. The handler still owns its partitions, and can commit, until it
// returns.
var ErrRebalance = errors.New("consumer group rebalances")

// codeError is what a broker answered.
func codeError(code int16) error {
	if code == 0 {
		return nil
	}
	return kafkago.Error(code)
}

// fenced reports whether the coordinator no longer knows this member or generation.
// Everything else that it can answer leaves the membership as it was.
func fenced(err error) bool {
	return errors.Is(err, kafkago.UnknownMemberId) ||
		errors.Is(err, kafkago.IllegalGeneration) ||
		errors.Is(err, kafkago.FencedInstanceID)
}

// refused reports whether the broker understood a commit and will say no again. Without an
// answer, or with one about the coordinator, it may say yes the next time.
func refused(err error) bool {
	var code kafkago.Error
	if !errors.As(err, &code) {
		return false
	}
	switch code {
	case kafkago.RequestTimedOut, kafkago.BrokerNotAvailable, kafkago.NetworkException,
		kafkago.GroupLoadInProgress, kafkago.GroupCoordinatorNotAvailable, kafkago.NotCoordinatorForGroup,
		kafkago.RebalanceInProgress, kafkago.ThrottlingQuotaExceeded, kafkago.KafkaStorageError:
		return false
	}
	return true
}
