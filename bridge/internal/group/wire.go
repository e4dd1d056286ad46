package group

import "github.com/segmentio/kafka-go/protocol"

// Three of kafka-go's group messages are unusable: its Heartbeat and LeaveGroup responses
// have the error code in the place of the throttle time, so that every error of the broker
// is read as success, and its JoinGroup lacks the version that lets a returning static
// leader keep the assignment (KIP-814).
//
// The library keeps one table of messages per process and reads it without a lock, so the
// only safe moment to correct it is before anything runs. That makes this the one init of
// the repository with a side effect on others: kafka-go's Client.JoinGroup, Heartbeat and
// LeaveGroup must not be used in this process.
func init() {
	protocol.Register(&joinRequest{}, &joinResponse{})
	protocol.Register(&heartbeatRequest{}, &heartbeatResponse{})
	protocol.Register(&leaveRequest{}, &leaveResponse{})
}

// The versions start with static membership (Apache Kafka 2.3).

type joinRequest struct {
	_ struct{} `kafka:"min=v6,max=v9,tag"`

	GroupID            string         `kafka:"min=v5,max=v9"`
	SessionTimeoutMS   int32          `kafka:"min=v5,max=v9"`
	RebalanceTimeoutMS int32          `kafka:"min=v5,max=v9"`
	MemberID           string         `kafka:"min=v5,max=v9"`
	GroupInstanceID    string         `kafka:"min=v5,max=v9,nullable"`
	ProtocolType       string         `kafka:"min=v5,max=v9"`
	Protocols          []joinProtocol `kafka:"min=v5,max=v9"`
	Reason             string         `kafka:"min=v8,max=v9,nullable"`
}

type joinProtocol struct {
	_ struct{} `kafka:"min=v6,max=v9,tag"`

	Name     string `kafka:"min=v5,max=v9"`
	Metadata []byte `kafka:"min=v5,max=v9"`
}

type joinResponse struct {
	_ struct{} `kafka:"min=v6,max=v9,tag"`

	ThrottleTimeMS int32        `kafka:"min=v5,max=v9"`
	ErrorCode      int16        `kafka:"min=v5,max=v9"`
	GenerationID   int32        `kafka:"min=v5,max=v9"`
	ProtocolType   string       `kafka:"min=v7,max=v9,nullable"`
	ProtocolName   string       `kafka:"min=v5,max=v6|min=v7,max=v9,nullable"`
	LeaderID       string       `kafka:"min=v5,max=v9"`
	SkipAssignment bool         `kafka:"min=v9,max=v9"`
	MemberID       string       `kafka:"min=v5,max=v9"`
	Members        []joinMember `kafka:"min=v5,max=v9"`
}

type joinMember struct {
	_ struct{} `kafka:"min=v6,max=v9,tag"`

	MemberID        string `kafka:"min=v5,max=v9"`
	GroupInstanceID string `kafka:"min=v5,max=v9,nullable"`
	Metadata        []byte `kafka:"min=v5,max=v9"`
}

type heartbeatRequest struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	GroupID         string `kafka:"min=v3,max=v4"`
	GenerationID    int32  `kafka:"min=v3,max=v4"`
	MemberID        string `kafka:"min=v3,max=v4"`
	GroupInstanceID string `kafka:"min=v3,max=v4,nullable"`
}

type heartbeatResponse struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	ThrottleTimeMS int32 `kafka:"min=v3,max=v4"`
	ErrorCode      int16 `kafka:"min=v3,max=v4"`
}

type leaveRequest struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	GroupID string        `kafka:"min=v3,max=v4"`
	Members []leaveMember `kafka:"min=v3,max=v4"`
}

type leaveMember struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	MemberID        string `kafka:"min=v3,max=v4"`
	GroupInstanceID string `kafka:"min=v3,max=v4,nullable"`
}

type leaveResponse struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	ThrottleTimeMS int32                 `kafka:"min=v3,max=v4"`
	ErrorCode      int16                 `kafka:"min=v3,max=v4"`
	Members        []leaveResponseMember `kafka:"min=v3,max=v4"`
}

type leaveResponseMember struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	MemberID        string `kafka:"min=v3,max=v4"`
	GroupInstanceID string `kafka:"min=v3,max=v4,nullable"`
	ErrorCode       int16  `kafka:"min=v3,max=v4"`
}

func (*joinRequest) ApiKey() protocol.ApiKey       { return protocol.JoinGroup }
func (*joinResponse) ApiKey() protocol.ApiKey      { return protocol.JoinGroup }
func (*heartbeatRequest) ApiKey() protocol.ApiKey  { return protocol.Heartbeat }
func (*heartbeatResponse) ApiKey() protocol.ApiKey { return protocol.Heartbeat }
func (*leaveRequest) ApiKey() protocol.ApiKey      { return protocol.LeaveGroup }
func (*leaveResponse) ApiKey() protocol.ApiKey     { return protocol.LeaveGroup }

// Group makes the transport send the request to the group's coordinator.
func (r *joinRequest) Group() string      { return r.GroupID }
func (r *heartbeatRequest) Group() string { return r.GroupID }
func (r *leaveRequest) Group() string     { return r.GroupID }
