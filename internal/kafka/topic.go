package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

// MissingTopicError says which topic is not there and how to make it.
type MissingTopicError struct {
	Topic   string
	Brokers string
}

func (e *MissingTopicError) Error() string {
	return fmt.Sprintf("topic %s does not exist; create it with kafka-topics.sh --bootstrap-server %s --create --topic %s, or set KAFKA_CREATE_TOPICS=true",
		e.Topic, e.Brokers, e.Topic)
}

// Reachable is nil when a broker answers.
func Reachable(ctx context.Context, client *kafkago.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := client.ApiVersions(ctx, &kafkago.ApiVersionsRequest{}); err != nil {
		return fmt.Errorf("no broker answers at %s: %w", client.Addr, err)
	}
	return nil
}

// Partitions is how many partitions topic has; a *MissingTopicError when it is not there.
func Partitions(ctx context.Context, client *kafkago.Client, topic string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, fmt.Errorf("ask for topic %s: %w", topic, err)
	}
	for _, t := range resp.Topics {
		switch {
		case t.Name != topic:
		case errors.Is(t.Error, kafkago.UnknownTopicOrPartition):
			return 0, &MissingTopicError{Topic: topic, Brokers: client.Addr.String()}
		case t.Error != nil:
			return 0, fmt.Errorf("ask for topic %s: %w", topic, t.Error)
		case len(t.Partitions) > 0:
			return len(t.Partitions), nil
		}
	}
	return 0, &MissingTopicError{Topic: topic, Brokers: client.Addr.String()}
}

// EnsureTopic is nil when topic is there. When it is not it is made with that
// many partitions, or reported as a *MissingTopicError if create is false.
func EnsureTopic(ctx context.Context, client *kafkago.Client, topic string, partitions int, create bool) error {
	_, err := Partitions(ctx, client, topic)
	var missing *MissingTopicError
	if err == nil || !errors.As(err, &missing) || !create {
		return err
	}
	if err := createTopic(ctx, client, topic, partitions); err != nil {
		return err
	}
	// The answer comes before every broker knows the topic.
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		Forget(client)
		if _, err = Partitions(ctx, client, topic); err == nil || !errors.As(err, &missing) {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("wait for topic %s: %w", topic, err)
		}
	}
}

func createTopic(ctx context.Context, client *kafkago.Client, topic string, partitions int) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	resp, err := client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{
		Topics: []kafkago.TopicConfig{{Topic: topic, NumPartitions: partitions, ReplicationFactor: -1}},
	})
	if err == nil {
		err = resp.Errors[topic]
	}
	if err != nil && !errors.Is(err, kafkago.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}

// pause waits, or returns early with ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
