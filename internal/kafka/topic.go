package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/internal/retry"
)

// MissingTopicError reports that a topic does not exist and how to create it.
type MissingTopicError struct {
	Topic      string
	Brokers    string
	Partitions int  // 0 = not known here
	Compacted  bool // how it must be created
}

func (e *MissingTopicError) Error() string {
	config := ""
	if e.Compacted {
		config = " --config cleanup.policy=compact"
	}
	return fmt.Sprintf("topic %s does not exist: set KAFKA_CREATE_TOPICS=true, or create it: kafka-topics.sh --bootstrap-server %s --create --topic %s --partitions %d%s",
		e.Topic, e.Brokers, e.Topic, max(1, e.Partitions), config)
}

// Unwrap makes errors.Is match the broker's own code.
func (e *MissingTopicError) Unwrap() error { return kafkago.UnknownTopicOrPartition }

// EnsureTopic returns when topic exists. A missing topic is created with this
// number of partitions and the cluster's default replication factor, and then each
// partition has a leader; unless create is set, it is a *MissingTopicError. In a
// topic that existed a partition may be without a leader: the others can be used.
func EnsureTopic(ctx context.Context, client *kafkago.Client, topic string, partitions int, create bool) error {
	return ensure(ctx, client, kafkago.TopicConfig{Topic: topic, NumPartitions: max(1, partitions), ReplicationFactor: -1}, create)
}

// EnsureCompacted is EnsureTopic for a topic of one partition that keeps the last
// record of each key. An existing topic is not changed.
func EnsureCompacted(ctx context.Context, client *kafkago.Client, topic string, create bool) error {
	err := ensure(ctx, client, kafkago.TopicConfig{Topic: topic, NumPartitions: 1, ReplicationFactor: -1,
		ConfigEntries: []kafkago.ConfigEntry{{ConfigName: cleanupPolicy, ConfigValue: compact}}}, create)
	if missing := (*MissingTopicError)(nil); errors.As(err, &missing) {
		missing.Compacted = true
	}
	return err
}

const cleanupPolicy, compact = "cleanup.policy", "compact"

// IsCompacted reports whether a topic keeps the last record of each key.
func IsCompacted(ctx context.Context, client *kafkago.Client, topic string) (bool, error) {
	set, err := settings(ctx, client, topic, cleanupPolicy)
	return slices.Contains(strings.Split(set[cleanupPolicy], ","), compact), err
}

// Retention is how old a record may get before the brokers delete it, 0 when they
// never do because of its age. ctx needs a deadline.
func Retention(ctx context.Context, client *kafkago.Client, topic string) (time.Duration, error) {
	const age = "retention.ms"
	set, err := settings(ctx, client, topic, cleanupPolicy, age)
	if err != nil || !slices.Contains(strings.Split(set[cleanupPolicy], ","), "delete") {
		return 0, err
	}
	ms, err := strconv.ParseInt(set[age], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("look up the settings of topic %s: %s %q", topic, age, set[age])
	}
	const most = math.MaxInt64 / int64(time.Millisecond) // what a Duration holds, 292 years
	return time.Duration(min(max(ms, 0), most)) * time.Millisecond, nil
}

// settings returns what is in force for a topic, with an answer for each name.
func settings(ctx context.Context, client *kafkago.Client, topic string, names ...string) (map[string]string, error) {
	resp, err := client.DescribeConfigs(ctx, &kafkago.DescribeConfigsRequest{Resources: []kafkago.DescribeConfigRequestResource{
		{ResourceType: kafkago.ResourceTypeTopic, ResourceName: topic, ConfigNames: names}}})
	if err != nil {
		return nil, fmt.Errorf("look up the settings of topic %s: %w", topic, Plain(err))
	}
	set := map[string]string{}
	for _, r := range resp.Resources {
		if r.Error != nil {
			return nil, fmt.Errorf("look up the settings of topic %s: %w", topic, r.Error)
		}
		for _, e := range r.ConfigEntries {
			set[e.ConfigName] = e.ConfigValue
		}
	}
	for _, name := range names {
		if _, ok := set[name]; !ok {
			return nil, fmt.Errorf("look up the settings of topic %s: no answer about %s", topic, name)
		}
	}
	return set, nil
}

func ensure(ctx context.Context, client *kafkago.Client, want kafkago.TopicConfig, create bool) error {
	topic := want.Topic
	n, err := lookUpNow(ctx, client, topic)
	switch {
	case n > 0:
		return nil
	case !errors.Is(err, kafkago.UnknownTopicOrPartition) && !errors.Is(err, kafkago.LeaderNotAvailable):
		return fmt.Errorf("look up topic %s: %w", topic, err)
	case errors.Is(err, kafkago.LeaderNotAvailable): // it exists, and a leader is being elected
	case !create:
		return &MissingTopicError{Topic: topic, Brokers: client.Addr.String(), Partitions: want.NumPartitions}
	default:
		if err := createTopic(ctx, client, want); err != nil {
			return fmt.Errorf("create topic %s: %w", topic, err)
		}
	}
	return awaitLeaders(ctx, client, topic)
}

func createTopic(ctx context.Context, client *kafkago.Client, want kafkago.TopicConfig) error {
	resp, err := client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: []kafkago.TopicConfig{want}})
	if err != nil {
		return Plain(err)
	}
	// Two services that start together both try; the second finds the topic.
	if err := resp.Errors[want.Topic]; err != nil && !errors.Is(err, kafkago.TopicAlreadyExists) {
		return err
	}
	return nil
}

// awaitLeaders polls, because brokers send no notice when they learn of a topic.
func awaitLeaders(ctx context.Context, client *kafkago.Client, topic string) error {
	pace := retry.Backoff{Min: 10 * time.Millisecond, Max: time.Second}
	for {
		_, err := lookUp(ctx, client, topic)
		if err == nil {
			return nil
		}
		if pace.Wait(ctx) != nil {
			return fmt.Errorf("wait for partition leaders of topic %s: %w", topic, err)
		}
		Forget(client)
	}
}

// Partitions returns the number of partitions of topic, or a *MissingTopicError
// when it does not exist now.
func Partitions(ctx context.Context, client *kafkago.Client, topic string) (int, error) {
	n, err := lookUpNow(ctx, client, topic)
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, kafkago.UnknownTopicOrPartition):
		return 0, &MissingTopicError{Topic: topic, Brokers: client.Addr.String()}
	}
	return 0, fmt.Errorf("look up topic %s: %w", topic, err)
}

// lookUpNow is lookUp, but asks again, past the cache, before it reports a topic as missing.
func lookUpNow(ctx context.Context, client *kafkago.Client, topic string) (int, error) {
	n, err := lookUp(ctx, client, topic)
	if errors.Is(err, kafkago.UnknownTopicOrPartition) {
		Forget(client)
		n, err = lookUp(ctx, client, topic)
	}
	return n, err
}

// lookUp returns the number of partitions of topic, from metadata at most
// metadataTTL old, and an error unless each has a leader.
func lookUp(ctx context.Context, client *kafkago.Client, topic string) (int, error) {
	meta, err := client.Metadata(ctx, &kafkago.MetadataRequest{Topics: []string{topic}})
	if err != nil {
		return 0, Plain(err)
	}
	t := meta.Topics[0]
	if t.Error != nil {
		return 0, t.Error
	}
	if len(t.Partitions) == 0 {
		return 0, kafkago.UnknownTopicOrPartition
	}
	for _, p := range t.Partitions {
		if p.Leader.Host == "" {
			return len(t.Partitions), kafkago.LeaderNotAvailable
		}
	}
	return len(t.Partitions), nil
}
