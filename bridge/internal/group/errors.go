package group

import (
	"errors"

	kafkago "github.com/segmentio/kafka-go"
)

// ErrFenced reports that the generation is over and its partitions may belong to another
// member now: nothing can be committed any more.
var ErrFenced = errors.New("no longer a member of the consumer group")

// ErrReplaced reports that another process joined the group with the same instance id. Run
// returns it instead of joining again: that would remove the other process, which would do
// the same in turn, forever.
var ErrReplaced = errors.New("another process uses the same instance id; give each its own KAFKA_GROUP_INSTANCE_ID")

// ErrRebalance is the cause with which a handler's context ends when the group reassigns
// its partitions. The handler still owns its partitions, and can commit, until it returns.
var ErrRebalance = errors.New("consumer group rebalances")

// codeError returns the error of a broker's answer, nil for none.
func codeError(code int16) error {
	if code == 0 {
		return nil
	}
	return kafkago.Error(code)
}

// errTaken: a leader that knows of no claims has made a plan while this member worked.
var errTaken = errors.New("another kind of member leads the group and has reassigned partitions")

// fenced reports whether the coordinator no longer knows this member or generation, or has
// given its partitions away. No other answer affects the membership.
func fenced(err error) bool {
	return errors.Is(err, errTaken) ||
		errors.Is(err, kafkago.UnknownMemberId) ||
		errors.Is(err, kafkago.IllegalGeneration) ||
		errors.Is(err, kafkago.FencedInstanceID)
}

// refused reports whether the broker refused a commit and would refuse it again. Without
// an answer, or with one about the coordinator, a retry may succeed.
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
