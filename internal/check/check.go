// Package check judges a kept run: did every change that was acknowledged reach
// the audit log exactly once, unaltered and in order per task? It shares no code
// with the services, least of all the reader of the audit log, so that it cannot
// share their mistakes. It keeps hashes and offsets in memory, not events: at most
// 670 bytes for each change, 6.7 GB for ten million.
//
// A run is a folder of JSON lines, so that a newer checker can judge an old run:
//
//	run.json            one Run: seed, plan, what the runner counted, whether the drain ended
//	history-*.jsonl     Op: a client's invoke, synced before the request, and its completion
//	database.jsonl      Row: the Task API's tasks and outbox after the drain
//	topic.jsonl         Record: every record of every topic, read from offset 0
//	deliveries.jsonl    Delivery: each post seen by the recorder in front of the auditor
//	notices.jsonl       Delivery: the same in front of the notifier
//	commits.jsonl       Commit: committed offsets as seen during the run, and the last ones
//	snapshots.jsonl     Snapshot: size and hash of the audit log during the run
//	faults.jsonl        Fault: what was broken, when, and how much was in flight
//	audit.log           the log itself, and before it its full segments:
//	audit.log.<12 digits>
//
// An incomplete line at the end of any file but audit.log is left by a killed
// writer and skipped. All times are nanoseconds of one monotonic clock.
//
// # Verdicts
//
//	LOST        acknowledged, committed or published, and not in the log; or due to the
//	            notifier, and neither accepted by it nor a dead letter
//	DUPLICATED  a nonce, an event id or a version of a task twice in the log
//	REORDERED   versions of a task not 1, 2, 3 ...; or against the clients' real time;
//	            or first occurrences in the topic out of order
//	PHANTOM     in the log without an invoke, after a refusal, without a committed row
//	ALTERED     not what was sent, stored or answered; a gap in the sequence; a snapshot that is not a prefix;
//	            a log that is not what its signed checkpoint covers
//	EARLY-ACK   the auditor answered 2xx for an entry that a later snapshot of its log lacks
//	HOLE        a commit past an offset without a 2xx; overlapping posts of one key
//	STUCK       the drain did not end: outbox or lag is not empty
//
// RED is a run with one of these. INVALID is one that did too little to be meaningful.
package check

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Run is run.json.
type Run struct {
	Seed     uint64         `json:"seed"`
	Build    string         `json:"build"`
	Topology string         `json:"topology"`
	Seconds  float64        `json:"seconds"`
	Topic    string         `json:"topic"`
	Group    string         `json:"group"`
	Notify   []string       `json:"notify,omitempty"`   // types of events that the notifier must get
	Notifier string         `json:"notifier,omitempty"` // its group
	Redriven bool           `json:"redriven,omitempty"` // no dead letter of the notifier is open, so each must have been accepted
	Drained  bool           `json:"drained"`
	Stuck    string         `json:"stuck,omitempty"`    // what the drain still waited for
	Unproved string         `json:"unproved,omitempty"` // what auditor verify says is wrong with the log and its tree
	Left     []string       `json:"left,omitempty"`     // kinds of faults that could not be injected, and why
	Counts   map[string]int `json:"counts,omitempty"`   // what only the runner can count, such as rebalances
	Limits   map[string]int `json:"limits,omitempty"`   // peaks by process, such as "auditor MiB"
	Need     map[string]int `json:"need,omitempty"`     // minimum of each figure for a valid run
}

// Phases of an Op. A client that does not know the outcome writes info; only a
// later ok of the same nonce replaces it.
const (
	Invoke     = "invoke"
	OK         = "ok"   // a whole 2xx
	OKUnread   = "ok?"  // a 2xx whose body could not be read
	Fail       = "fail" // certainly had no effect: refused connection, documented 4xx
	Info       = "info" // unknown
	EffectYes  = "yes"  // a 2xx of this operation changes the task
	EffectNo   = "no"   // it does not change it
	EffectAny  = ""     // it may change it
	TableTask  = "task"
	TableEvent = "outbox"
)

// Op is a line of a history.
type Op struct {
	Phase   string `json:"phase"`
	Nonce   string `json:"nonce"`
	At      int64  `json:"at"`
	Wall    string `json:"wall,omitempty"`
	Kind    string `json:"kind,omitempty"`
	Task    string `json:"task,omitempty"`
	Version int64  `json:"version,omitempty"` // as answered
	Effect  string `json:"effect,omitempty"`
	State   string `json:"state,omitempty"` // State of the task afterwards, "" when the client cannot know
	Status  int    `json:"status,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Row is a line of the database dump.
type Row struct {
	Table   string `json:"table"`
	Task    string `json:"task"`
	Version int64  `json:"version"`
	Source  string `json:"source,omitempty"`
	Event   string `json:"event,omitempty"`
	Nonce   string `json:"nonce,omitempty"`
	Data    string `json:"data,omitempty"` // Sum of the data's bytes
	Waiting bool   `json:"waiting,omitempty"`
}

// Record is a line of the topic dump.
type Record struct {
	Topic     string `json:"topic"`
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	Source    string `json:"source,omitempty"`
	Event     string `json:"event,omitempty"`
	Type      string `json:"type,omitempty"`
	Task      string `json:"task,omitempty"`
	Version   int64  `json:"version,omitempty"`
	Nonce     string `json:"nonce,omitempty"`
	Data      string `json:"data,omitempty"`
	Malformed bool   `json:"malformed,omitempty"` // not an event: the group must write a dead letter for it
	Group     string `json:"group,omitempty"`     // the consumer group that wrote a dead letter
}

// Delivery is one post to the auditor as the recorder saw it. End is the time
// before the answer is forwarded, so that all its consequences are later.
type Delivery struct {
	Via       string `json:"via"` // one start of one bridge
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	Source    string `json:"source"`
	Event     string `json:"event"`
	Task      string `json:"task"`
	Attempt   int    `json:"attempt"`
	Status    int    `json:"status"` // answered to the bridge, 0 = none
	Sink      int    `json:"sink"`   // answered by the auditor, 0 = not asked or no answer
	Start     int64  `json:"start"`
	End       int64  `json:"end"`
}

// Commit is a committed offset as it was read at a time.
type Commit struct {
	Partition int   `json:"partition"`
	Offset    int64 `json:"offset"` // -1 = none
	At        int64 `json:"at"`     // after the answer
	Final     bool  `json:"final,omitempty"`
	Log       int64 `json:"log,omitempty"` // end of the partition, when final
}

// Snapshot describes the audit log up to its last line feed at a time.
type Snapshot struct {
	At   int64  `json:"at"` // before it was read
	Size int64  `json:"size"`
	Sum  string `json:"sum"` // SHA-256 in hex
}

// Fault is one thing that was broken.
type Fault struct {
	Kind      string `json:"kind"`
	Target    string `json:"target"`
	Pair      string `json:"pair,omitempty"`  // the two ends of a connection
	Error     string `json:"error,omitempty"` // why it was not injected or not healed
	At        int64  `json:"at"`
	Healed    int64  `json:"healed"` // 0 = never
	InFlight  int    `json:"in_flight"`
	Recovered int64  `json:"recovered,omitempty"` // first acknowledged delivery afterwards
}

// State returns the hash of a task's state after a change, as the client knows it.
func State(title, status, owner string) string {
	return Sum([]byte(title + "\x00" + status + "\x00" + owner))
}

// Sum returns a hash that is short enough to keep ten million of them.
func Sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:16])
}

// id is 128 bits of a name: the name itself when it is a UUID or 32 hex digits,
// so that it can be printed again, and a hash of any other name.
type id [16]byte

func idOf(name string) id {
	if h := strings.ReplaceAll(name, "-", ""); len(h) == 32 && (len(name) == 32 || len(name) == 36) {
		var x id
		if _, err := hex.Decode(x[:], []byte(h)); err == nil && h == strings.ToLower(h) {
			return x
		}
	}
	s := sha256.Sum256([]byte(name))
	return id(s[:16])
}

// eventID combines source and id; the usual source needs no hash.
func eventID(source, name string) id {
	if source == "task-api" {
		return idOf(name)
	}
	return idOf(fmt.Sprintf("%q %q", source, name))
}

// String returns the UUID as it is in the files.
func (x id) String() string {
	h := hex.EncodeToString(x[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// Finding is one violation.
type Finding struct {
	Rule    string `json:"rule"`
	Why     string `json:"why"`
	Nonce   string `json:"nonce,omitempty"`
	Event   string `json:"event,omitempty"`
	Task    string `json:"task,omitempty"`
	Version int64  `json:"version,omitempty"`
	Last    string `json:"last,omitempty"` // the last place where it was seen
}

func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %s", f.Rule, f.Why)
	for _, p := range [...][2]string{{"task", f.Task}, {"event", f.Event}, {"nonce", f.Nonce}} {
		if p[1] != "" {
			fmt.Fprintf(&b, " %s=%s", p[0], p[1])
		}
	}
	if f.Version != 0 {
		fmt.Fprintf(&b, " version=%d", f.Version)
	}
	if f.Last != "" {
		b.WriteString(" last seen: " + f.Last)
	}
	return b.String()
}
