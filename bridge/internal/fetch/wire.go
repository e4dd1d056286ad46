package fetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	fetchapi "github.com/segmentio/kafka-go/protocol/fetch"
)

// maxAnswer bounds what a broker may make this process allocate, whatever it
// was asked for. It is Kafka's own limit for a request.
const maxAnswer = 100 << 20

// exchange is a fetch that reads its answer itself. The library calls RawExchange
// for it, and nothing else uses the connection meanwhile. The end of ctx interrupts
// it, and closes the connection.
type exchange struct {
	fetchapi.Request
	ctx      context.Context //nolint:containedctx // RawExchange has none
	clientID string
	version  int16
	broker   int32 // whom to ask; -1 for the leader of the partition

	// room is called for each partition that the answer names, before its batches
	// are read. It returns memory for them, or nil to pass over them. It may block
	// until there is room; an error ends the exchange.
	room func(part) ([]byte, error)
	// took is called when the batches of a partition have been read whole.
	took func(part, []byte)
}

// part is what an answer says of one partition.
type part struct {
	partition int32
	code      int16
	end       int64 // high watermark
	logStart  int64
	size      int // bytes of its batches
}

// answered is the end of an exchange; what was in it has been taken already.
type answered struct{}

func (answered) ApiKey() protocol.ApiKey { return protocol.Fetch }

// request asks for a topic's partitions.
func request(wait time.Duration, most int, topic string, partitions []fetchapi.RequestPartition) fetchapi.Request {
	return fetchapi.Request{
		ReplicaID: -1, MaxWaitTime: int32(wait.Milliseconds()), MinBytes: 1, MaxBytes: int32(most), SessionID: -1, SessionEpoch: -1,
		Topics: []fetchapi.RequestTopic{{Topic: topic, Partitions: partitions}},
	}
}

// Broker implements protocol.BrokerMessage.
func (x *exchange) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	if x.broker < 0 {
		return x.Request.Broker(cluster)
	}
	b, ok := cluster.Brokers[x.broker]
	if !ok {
		return b, kafkago.BrokerNotAvailable
	}
	return b, nil
}

// Required implements protocol.RawExchanger. It learns the version that broker
// and library agreed on.
func (x *exchange) Required(versions map[protocol.ApiKey]int16) bool {
	x.version = versions[protocol.Fetch]
	return true
}

// correlation numbers the requests: an answer must be the one to its request.
var correlation atomic.Int32

// RawExchange implements protocol.RawExchanger.
func (x *exchange) RawExchange(rw io.ReadWriter) (_ protocol.Message, err error) {
	if c, ok := rw.(interface{ SetDeadline(time.Time) error }); ok {
		stop := context.AfterFunc(x.ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		defer func() {
			if !stop() && err == nil {
				err = context.Cause(x.ctx) // the deadline may be set any time from now on: nobody may use the connection again
			}
		}()
	}
	id := correlation.Add(1)
	if err := protocol.WriteRequest(rw, x.version, id, x.clientID, &x.Request); err != nil {
		return nil, err
	}
	r := &reader{r: rw, left: 4}
	size := r.int32()
	if r.err == nil && (size < 4 || size > maxAnswer) {
		return nil, fmt.Errorf("the broker announced an answer of %d bytes", size)
	}
	r.left = int64(size)
	if got := r.int32(); r.err == nil && got != id {
		return nil, fmt.Errorf("the broker answered request %d instead of %d", got, id)
	}
	if err := x.read(r); err != nil {
		return nil, err
	}
	if r.skip(r.left); r.err != nil {
		return nil, fmt.Errorf("read the broker's answer: %w", r.err)
	}
	return answered{}, nil
}

// read decodes versions 4 to 11, which have the same layout but for some members.
func (x *exchange) read(r *reader) error {
	r.int32() // throttle time; the broker delays the answer by itself
	if x.version >= 7 {
		code := r.int16()
		r.int32() // session
		if code != 0 {
			return kafkago.Error(code)
		}
	}
	for topics := r.int32(); topics > 0 && r.err == nil; topics-- {
		ours := r.string() == x.Topics[0].Topic
		for partitions := r.int32(); partitions > 0 && r.err == nil; partitions-- {
			p := x.part(r)
			if r.err != nil {
				break
			}
			if !ours {
				r.skip(int64(p.size))
				continue
			}
			batches, err := x.room(p)
			if err != nil {
				return err
			}
			if batches == nil {
				r.skip(int64(p.size))
				continue
			}
			if r.full(batches); r.err == nil {
				x.took(p, batches)
			}
		}
	}
	return nil // of r the caller takes care
}

// part reads what comes before the batches of a partition.
func (x *exchange) part(r *reader) part {
	p := part{partition: r.int32(), code: r.int16(), end: r.int64()}
	r.int64() // last stable offset
	if x.version >= 5 {
		p.logStart = r.int64()
	}
	if aborted := r.int32(); aborted > 0 {
		r.skip(int64(aborted) * 16)
	}
	if x.version >= 11 {
		r.int32() // preferred replica
	}
	p.size = max(0, int(r.int32()))
	if r.err == nil && int64(p.size) > r.left {
		r.err = io.ErrUnexpectedEOF
	}
	return p
}

// reader reads integers as Kafka writes them, up to its first error.
type reader struct {
	r    io.Reader
	left int64 // of the answer
	err  error
	buf  [8]byte
}

func (r *reader) full(b []byte) {
	if r.err == nil && int64(len(b)) > r.left {
		r.err = io.ErrUnexpectedEOF
	}
	if r.err != nil {
		return
	}
	n, err := io.ReadFull(r.r, b)
	r.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
}

func (r *reader) int16() int16 {
	if r.full(r.buf[:2]); r.err != nil {
		return 0
	}
	return int16(binary.BigEndian.Uint16(r.buf[:]))
}

func (r *reader) int32() int32 {
	if r.full(r.buf[:4]); r.err != nil {
		return 0
	}
	return int32(binary.BigEndian.Uint32(r.buf[:]))
}

func (r *reader) int64() int64 {
	if r.full(r.buf[:8]); r.err != nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(r.buf[:]))
}

func (r *reader) string() string {
	b := make([]byte, max(0, r.int16()))
	if r.full(b); r.err != nil {
		return ""
	}
	return string(b)
}

func (r *reader) skip(n int64) {
	if r.err != nil || n <= 0 {
		return
	}
	if n > r.left || n > math.MaxInt32 {
		r.err = io.ErrUnexpectedEOF
		return
	}
	copied, err := io.CopyN(io.Discard, r.r, n)
	r.left -= copied
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
}
