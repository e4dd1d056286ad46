package kafka

import (
	"errors"

	kafkago "github.com/segmentio/kafka-go"
)

// verdict is what to do after an attempt to store a batch.
type verdict int

const (
	done        verdict = iota
	again               // retry with the same bytes
	newEpoch            // restart the sequence in a new epoch, then retry
	newProducer         // get another producer id, then retry
	newTime             // give the batch the broker's time, then retry
	smaller             // retry with fewer records at once
	refused             // a retry would get the same answer
)

// judge is the only place that decides about an attempt's error. Everything not
// listed is retried: a code that this program does not know, and every failure
// to get an answer.
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
		// An earlier attempt stored it: a sequence is never reused for other records.
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
	case kafkago.InvalidTimestamp:
		if told := (*timeError)(nil); errors.As(err, &told) {
			return newTime
		}
		return refused // the broker does not say which time it would accept
	case kafkago.InvalidTopic, kafkago.InvalidRequiredAcks, kafkago.InvalidRecord,
		kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed,
		kafkago.UnsupportedSASLMechanism, kafkago.IllegalSASLState, kafkago.SASLAuthenticationFailed,
		kafkago.UnsupportedVersion, kafkago.InvalidRequest, kafkago.UnsupportedForMessageFormat, kafkago.PolicyViolation:
		return refused
	}
	return again
}

// producerFenced is missing from the library's list.
const producerFenced = kafkago.Error(90)

// answered reports whether err is a broker's answer, so that the broker has read the request.
func answered(err error) bool {
	var code kafkago.Error
	return errors.As(err, &code)
}

// surelyNotStored reports whether a retriable answer rules out that the batch is
// in the log. A wrong false costs an epoch; a wrong true would cost records.
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
