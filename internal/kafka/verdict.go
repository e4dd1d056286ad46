package kafka

import (
	"errors"

	kafkago "github.com/segmentio/kafka-go"
)

// verdict is what to do after an attempt.
type verdict int

const (
	done        verdict = iota
	again               // the same bytes once more
	newEpoch            // sequences start anew, then again
	newProducer         // with another producer id, then again
	smaller             // fewer records at once
	refused             // the answer will be the same next time
)

// judge is the only place that decides about an attempt's error. What is not
// named is tried again: a code that this program does not know, and everything
// that is no answer at all.
func judge(err error, records int) verdict {
	if err == nil {
		return done
	}
	var code kafkago.Error
	if !errors.As(err, &code) {
		return again
	}
	switch code {
	case kafkago.DuplicateSequenceNumber:
		// Stored by an earlier attempt: a sequence never stands for other records.
		return done
	case kafkago.OutOfOrderSequenceNumber:
		return newEpoch
	case kafkago.InvalidProducerEpoch, kafkago.InvalidProducerIDMapping, kafkago.UnknownProducerId, producerFenced:
		return newProducer
	case kafkago.MessageSizeTooLarge, kafkago.RecordListTooLarge:
		if records > 1 {
			return smaller
		}
		return refused
	case kafkago.InvalidTopic, kafkago.InvalidRequiredAcks, kafkago.InvalidTimestamp, kafkago.InvalidRecord,
		kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed,
		kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState, kafkago.SASLAuthenticationFailed,
		kafkago.UnsupportedVersion, kafkago.InvalidRequest, kafkago.UnsupportedForMessageFormat, kafkago.PolicyViolation:
		return refused
	}
	return again
}

// producerFenced is missing from the library's list.
const producerFenced = kafkago.Error(90)

// answered says whether the broker read the request: an error of its own.
func answered(err error) bool {
	var code kafkago.Error
	return errors.As(err, &code)
}

// surelyNotStored says whether a repeatable answer excludes that the batch is
// in the log. Wrong in doubt costs an epoch; wrong the other way would cost records.
func surelyNotStored(err error) bool {
	for _, code := range []kafkago.Error{
		kafkago.UnknownTopicOrPartition, kafkago.LeaderNotAvailable, kafkago.NotLeaderForPartition,
		kafkago.NotEnoughReplicas, kafkago.InvalidMessage, kafkago.FencedLeaderEpoch, kafkago.UnknownLeaderEpoch,
	} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}
