package group

import (
	"context"
	"fmt"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/describegroups"
)

// Owner is the member that has a partition, as the coordinator knows it.
type Owner struct {
	Member   string `json:"member"`             // its id
	Instance string `json:"instance,omitempty"` // of a static member: the pod in Kubernetes
	Client   string `json:"client"`
	Host     string `json:"host"` // from where it reaches the brokers
}

// Description is a group as its coordinator sees it.
type Description struct {
	State   string // stable, rebalancing, or empty without members
	Members int
	Owners  map[int]Owner // by partition of the topic; none while the group rebalances
}

// Describe asks the coordinator who has which partition of topic. ctx needs a deadline.
// A group that does not exist is empty.
func Describe(ctx context.Context, client *kafkago.Client, group, topic string) (Description, error) {
	answer, err := client.Transport.RoundTrip(ctx, client.Addr, &describegroups.Request{Groups: []string{group}})
	if err != nil {
		return Description{}, fmt.Errorf("describe group %s: %w", group, err)
	}
	d := Description{State: "empty", Owners: map[int]Owner{}}
	for _, g := range answer.(*describegroups.Response).Groups {
		if err := codeError(g.ErrorCode); err != nil {
			return Description{}, fmt.Errorf("describe group %s: %w", group, err)
		}
		switch g.GroupState {
		case "Stable":
			d.State = "stable"
		case "PreparingRebalance", "CompletingRebalance":
			d.State = "rebalancing"
		}
		d.Members += len(g.Members)
		for _, m := range g.Members {
			ids, _, err := decodeAssignment(m.MemberAssignment, topic)
			if err != nil {
				return Description{}, fmt.Errorf("describe group %s: %w", group, err)
			}
			for _, id := range ids {
				d.Owners[id] = Owner{Member: m.MemberID, Instance: m.GroupInstanceID, Client: m.ClientID, Host: strings.TrimPrefix(m.ClientHost, "/")}
			}
		}
	}
	return d, nil
}
