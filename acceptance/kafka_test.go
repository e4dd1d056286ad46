package acceptance_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/internal/kafkatest"
)

// The scripts use another client library for Kafka than the product, so that the
// two cannot share a mistake.

func (w *world) kafka(opts ...kgo.Opt) (*kgo.Client, error) {
	if s, ok := w.system.(interface{ kafkaOpts() []kgo.Opt }); ok {
		opts = append(opts, s.kafkaOpts()...)
	}
	return kgo.NewClient(append(opts, kgo.SeedBrokers(strings.Split(w.system.brokers(), ",")...))...)
}

// produce writes one record; a nil value is a tombstone.
func (w *world) produce(ctx context.Context, r *kgo.Record) error {
	cl, err := w.kafka()
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.ProduceSync(ctx, r).FirstErr()
}

// consume reads all records of partition 0 of a topic, and waits until there are n.
func (w *world) consume(ctx context.Context, topic string, n int) ([]*kgo.Record, error) {
	cl, err := w.kafka(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	var records []*kgo.Record
	for {
		end, err := endOffset(ctx, cl, topic)
		if err != nil {
			return nil, err
		}
		if len(records) >= n && (end == 0 || len(records) > 0 && records[len(records)-1].Offset == end-1) {
			return records, nil
		}
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%d records of %s, want %d: %w", len(records), topic, n, ctx.Err())
		}
		records = append(records, fetches.Records()...)
	}
}

func printRecords(out io.Writer, records []*kgo.Record, whole bool) {
	for _, r := range records {
		if whole {
			fmt.Fprintf(out, "key=%s", r.Key)
			for _, h := range r.Headers {
				fmt.Fprintf(out, " %s=%q", h.Key, h.Value)
			}
			fmt.Fprint(out, " ")
		}
		fmt.Fprintf(out, "%s\n", r.Value)
	}
}

func endOffset(ctx context.Context, cl *kgo.Client, topic string) (int64, error) {
	part := kmsg.NewListOffsetsRequestTopicPartition()
	part.Timestamp = -1
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic, t.Partitions = topic, append(t.Partitions, part)
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.Topics = -1, append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, err
	}
	answer := resp.Topics[0].Partitions[0]
	return answer.Offset, kerr.ErrorForCode(answer.ErrorCode)
}

// committed returns the group's offset of partition 0, -1 when it has none, and
// its lag.
func (w *world) committed(ctx context.Context, group, topic string) (offset, lag int64, err error) {
	cl, err := w.kafka()
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	end, err := endOffset(ctx, cl, topic)
	if err != nil {
		return 0, 0, err
	}
	t := kmsg.NewOffsetFetchRequestGroupTopic()
	t.Topic, t.Partitions = topic, []int32{0}
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics = group, append(g.Topics, t)
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.Groups = group, append(req.Groups, g)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return 0, 0, err
	}
	if len(resp.Groups) != 1 || len(resp.Groups[0].Topics) != 1 {
		return 0, 0, fmt.Errorf("offsets of group %s: unexpected response %+v", group, resp)
	}
	if err := kerr.ErrorForCode(resp.Groups[0].ErrorCode); err != nil {
		return 0, 0, err
	}
	offset = resp.Groups[0].Topics[0].Partitions[0].Offset
	return offset, end - max(offset, 0), nil
}

// realBroker is a real Apache Kafka that scripts use in turn: each begins with
// new topics and no groups.
type realBroker struct {
	cluster *kafkatest.Real
	clean   bool
	down    bool
}

func (b *realBroker) addrs() []string { return b.cluster.Brokers }

func (b *realBroker) start() error {
	if b.down {
		b.down = false
		return b.cluster.Restart()
	}
	if b.clean {
		return nil
	}
	b.clean = true
	ctx, cancel := context.WithTimeout(context.Background(), patience())
	defer cancel()
	return renew(ctx, kgo.SeedBrokers(b.addrs()...))
}

func (b *realBroker) stop() error {
	b.down = true
	return b.cluster.Stop()
}

// close leaves a running cluster to the next script.
func (b *realBroker) close() error {
	if b.down {
		return b.start()
	}
	return nil
}

func renew(ctx context.Context, opts ...kgo.Opt) error {
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := deleteGroups(ctx, cl); err != nil {
		return fmt.Errorf("delete the groups: %w", err)
	}
	for _, topic := range []string{"task-events", "task-events-dlq", "taskwire-control"} {
		if err := renewTopic(ctx, cl, topic); err != nil {
			return fmt.Errorf("renew topic %s: %w", topic, err)
		}
	}
	return nil
}

// deleteGroups waits for the coordinator of a new cluster, and for members that
// the previous script has killed.
func deleteGroups(ctx context.Context, cl *kgo.Client) error {
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Groups = []string{"notification-service", "audit-service"}
	return poll(ctx, func() error {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		for _, g := range resp.Groups {
			err := kerr.ErrorForCode(g.ErrorCode)
			if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
				return fmt.Errorf("%s: %w", g.Group, err)
			}
		}
		return nil
	})
}

func renewTopic(ctx context.Context, cl *kgo.Client, topic string) error {
	drop := kmsg.NewPtrDeleteTopicsRequest()
	drop.TopicNames, drop.TimeoutMillis = []string{topic}, 10000
	named := kmsg.NewDeleteTopicsRequestTopic()
	named.Topic = kmsg.StringPtr(topic)
	drop.Topics = append(drop.Topics, named)
	if _, err := drop.RequestWith(ctx, cl); err != nil {
		return err
	}
	add := kmsg.NewPtrCreateTopicsRequest()
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = topic, 1, 1
	if topic == "taskwire-control" {
		one.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "cleanup.policy", Value: kmsg.StringPtr("compact")}}
	}
	add.Topics, add.TimeoutMillis = append(add.Topics, one), 10000
	for {
		resp, err := add.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		// Kafka deletes topics in the background.
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
		if !errors.Is(err, kerr.TopicAlreadyExists) || !pause(ctx) {
			return err
		}
	}
}

// tools is a system with Kafka's own command-line tools.
type tools interface {
	tool(ctx context.Context, script, class string, args []string) (string, error)
}

// tool runs one of them: the script, or its class.
func tool(script, class string) command {
	return func(ctx context.Context, w *world, ts *testscript.TestScript, args []string) error {
		s, ok := w.system.(tools)
		if !ok {
			return errNoTools
		}
		out, err := s.tool(ctx, script, class, args)
		fmt.Fprint(ts.Stdout(), out)
		return err
	}
}

func (p *processes) tool(ctx context.Context, _, class string, args []string) (string, error) {
	real, ok := p.kafka.(*realBroker)
	if !ok {
		return "", errNoTools
	}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "localhost:9092", p.brokers())
	}
	return real.cluster.Tool(ctx, class, args...)
}

var errNoTools = errors.New("this broker has no command-line tools; begin the script with [!kafka] skip")
