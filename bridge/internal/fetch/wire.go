package fetch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync/atomic"

	"github.com/segmentio/kafka-go/protocol"
	fetchapi "github.com/segmentio/kafka-go/protocol/fetch"
)

// maxAnswer bounds what a broker may make this process allocate, whatever it
// was asked for. It is Kafka's own limit for a request.
const maxAnswer = 100 << 20

// exchange is a fetch that reads its answer itself. The library calls RawExchange
// for it, on the connection to the partition's leader, and nothing else uses the
// connection meanwhile.
type exchange struct {
	fetchapi.Request
	ctx      context.Context //nolint:containedctx // RawExchange has none
	clientID string
	version  int16
	grant    func(ctx context.Context, size int) error
}

// answer is the part of a fetch response that is used.
type answer struct {
	Answer
	code int16
}

func (*answer) ApiKey() protocol.ApiKey { return protocol.Fetch }

// Required implements protocol.RawExchanger. It learns the version that broker
// and library agreed on.
func (x *exchange) Required(versions map[protocol.ApiKey]int16) bool {
	x.version = versions[protocol.Fetch]
	return true
}

// correlation numbers the requests: an answer must be the one to its request.
var correlation atomic.Int32

// RawExchange implements protocol.RawExchanger.
func (x *exchange) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	id := correlation.Add(1)
	if err := protocol.WriteRequest(rw, x.version, id, x.clientID, &x.Request); err != nil {
		return nil, err
	}
	r := &reader{r: rw}
	r.left = int64(r.int32())
	if r.err == nil && (r.left < 4 || r.left > maxAnswer) {
		return nil, fmt.Errorf("the broker announced an answer of %d bytes", r.left)
	}
	if got := r.int32(); r.err == nil && got != id {
		return nil, fmt.Errorf("the broker answered request %d instead of %d", got, id)
	}
	a := &answer{}
	x.read(r, a)
	r.skip(r.left)
	if r.err != nil {
		return nil, fmt.Errorf("read the broker's answer: %w", r.err)
	}
	return a, nil
}

// read decodes versions 4 to 11, which have the same layout but for some
// members. The request names one partition, so the answer holds at most one.
func (x *exchange) read(r *reader, a *answer) {
	r.int32() // throttle time; the broker delays the answer by itself
	if x.version >= 7 {
		a.code = r.int16()
		r.int32() // session
	}
	if topics := r.int32(); topics != 1 {
		return
	}
	r.skip(int64(r.int16())) // name
	if partitions := r.int32(); partitions != 1 {
		return
	}
	r.int32() // index
	if code := r.int16(); code != 0 {
		a.code = code
	}
	a.End = r.int64()
	r.int64() // last stable offset
	if x.version >= 5 {
		a.LogStart = r.int64()
	}
	if aborted := r.int32(); aborted > 0 {
		r.skip(int64(aborted) * 16)
	}
	if x.version >= 11 {
		r.int32() // preferred replica
	}
	size := r.int32()
	if r.err != nil || size <= 0 {
		return
	}
	if int64(size) > r.left {
		r.err = io.ErrUnexpectedEOF
		return
	}
	if x.grant != nil {
		if r.err = x.grant(x.ctx, int(size)); r.err != nil {
			return
		}
	}
	a.Batches = make([]byte, size)
	r.full(a.Batches)
}

// reader reads integers as Kafka writes them, up to its first error.
type reader struct {
	r    io.Reader
	left int64 // of the answer
	err  error
	buf  [8]byte
}

func (r *reader) full(b []byte) {
	if r.err != nil {
		return
	}
	n, err := io.ReadFull(r.r, b)
	r.left -= int64(n)
	if errors.Is(err, io.EOF) && n == 0 && len(b) > 0 {
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
	r.err = err
}
