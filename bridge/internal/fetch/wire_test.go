package fetch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kafkago "github.com/segmentio/kafka-go"
	fetchapi "github.com/segmentio/kafka-go/protocol/fetch"
)

// answerOf encodes an answer of version 11 after its length and correlation id.
func answerOf(code int16, topic string, parts []part, batches map[int32]string) []byte {
	b := binary.BigEndian.AppendUint32(nil, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(topic))), topic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(parts)))
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(p.partition))
		b = binary.BigEndian.AppendUint16(b, uint16(p.code))
		b = binary.BigEndian.AppendUint64(b, uint64(p.end))
		b = binary.BigEndian.AppendUint64(b, 0)
		b = binary.BigEndian.AppendUint64(b, uint64(p.logStart))
		b = binary.BigEndian.AppendUint32(b, 1) // an aborted transaction
		b = append(b, make([]byte, 16)...)
		b = binary.BigEndian.AppendUint32(b, 0)
		b = binary.BigEndian.AppendUint32(b, uint32(p.size))
		b = append(b, batches[p.partition]...)
	}
	return b
}

// decode reads an answer as an exchange does. Batches of partition 3 are passed over.
func decode(raw []byte) (taken map[part]string, err error) {
	taken = map[part]string{}
	x := &exchange{version: 11, Request: request(time.Second, 1, "t", nil),
		room: func(p part) ([]byte, error) {
			if p.size == 0 || p.partition == 3 {
				taken[p] = ""
				return nil, nil
			}
			return make([]byte, p.size), nil
		},
		took: func(p part, b []byte) { taken[p] = string(b) },
	}
	r := &reader{r: bytes.NewReader(raw), left: int64(len(raw))}
	if err := x.read(r); err != nil {
		return taken, err
	}
	return taken, r.err
}

func TestAnswerIsSplitByPartition(t *testing.T) {
	parts := []part{{partition: 1, end: 9, logStart: 2, size: 3}, {partition: 2, code: 6, end: -1, logStart: -1}, {partition: 3, end: 4, size: 5}, {partition: 4, end: 7, size: 2}}
	got, err := decode(answerOf(0, "t", parts, map[int32]string{1: "one", 3: "three", 4: "ok"}))
	want := map[part]string{parts[0]: "one", parts[1]: "", parts[2]: "", parts[3]: "ok"}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(part{})); diff != "" || err != nil {
		t.Errorf("taken, %v (-want +got):\n%s", err, diff)
	}
	if _, err := decode(answerOf(int16(kafkago.NotLeaderForPartition), "t", nil, nil)); !errors.Is(err, kafkago.NotLeaderForPartition) {
		t.Errorf("an answer that is an error as a whole = %v", err)
	}
	if got, err := decode(answerOf(0, "another", parts[:1], map[int32]string{1: "one"})); err != nil || len(got) != 0 {
		t.Errorf("another topic: taken %v, %v", got, err)
	}
}

// Wherever an answer ends, or whatever size it claims: no more is read or made room
// for than it has, and what came whole before has been taken.
func TestACutAnswerIsAnError(t *testing.T) {
	parts := []part{{partition: 1, end: 9, size: 3}, {partition: 2, end: 9, size: 4}}
	raw := answerOf(0, "t", parts, map[int32]string{1: "one", 2: "four"})
	for n := range raw {
		got, err := decode(raw[:n])
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(raw), err)
		}
		for p, b := range got {
			if len(b) != p.size {
				t.Errorf("cut after %d: %q was taken of %d bytes", n, b, p.size)
			}
		}
	}
	raw = answerOf(0, "t", []part{{partition: 1, size: 1 << 30}}, nil)
	if got, err := decode(raw); !errors.Is(err, io.ErrUnexpectedEOF) || len(got) != 0 {
		t.Errorf("a gigabyte that is not there: %v, %v", got, err)
	}
}

// conn answers with what a test says.
type conn struct {
	io.Reader
	written bytes.Buffer
	ended   chan struct{}
}

func (c *conn) Write(b []byte) (int, error) { return c.written.Write(b) }
func (c *conn) SetDeadline(time.Time) error { close(c.ended); return nil }

func TestAnswersToOtherRequestsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"another request": {[]byte{0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff}, "instead of"},
		"too short":       {[]byte{0, 0, 0, 3}, "an answer of 3 bytes"},
		"too long":        {[]byte{0x7f, 0, 0, 0}, "an answer of 2130706432 bytes"},
		"nothing":         {nil, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			x := &exchange{ctx: t.Context(), version: 11, Request: request(time.Second, 1, "t", []fetchapi.RequestPartition{wanted(0, 0, 1)})}
			_, err := x.RawExchange(&conn{Reader: bytes.NewReader(c.raw), ended: make(chan struct{})})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v, want one with %q", err, c.want)
			}
		})
	}
}

// blocked reads nothing until the deadline is set.
type blocked struct{ ended chan struct{} }

func (b blocked) Read([]byte) (int, error) { <-b.ended; return 0, context.DeadlineExceeded }

func TestTheEndOfTheContextInterruptsAnExchange(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	done := make(chan error)
	go func() {
		x := &exchange{ctx: ctx, version: 11, Request: request(time.Second, 1, "t", []fetchapi.RequestPartition{wanted(0, 0, 1)})}
		_, err := x.RawExchange(&conn{Reader: blocked{ended}, ended: ended})
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Error("no error: the connection would be used again")
	}
}

// Nothing that a broker sends makes an exchange panic, or make room for more than it sent.
func FuzzAnswer(f *testing.F) {
	parts := []part{{partition: 1, end: 9, logStart: 2, size: 3}, {partition: 2, code: 6}, {partition: 3, end: 4, size: 5}}
	f.Add(answerOf(0, "t", parts, map[int32]string{1: "one", 3: "three"}), int16(11))
	f.Add(answerOf(1, "t", parts, nil), int16(4))
	f.Fuzz(func(t *testing.T, raw []byte, version int16) {
		made := 0
		x := &exchange{version: version, Request: request(time.Second, 1, "t", nil),
			room: func(p part) ([]byte, error) { made += p.size; return make([]byte, p.size), nil },
			took: func(part, []byte) {},
		}
		r := &reader{r: bytes.NewReader(raw), left: int64(len(raw))}
		_ = x.read(r)
		if made > len(raw) || r.left < 0 {
			t.Errorf("%d bytes: room for %d, %d left", len(raw), made, r.left)
		}
	})
}
