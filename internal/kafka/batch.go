package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"github.com/taskwire/taskwire/internal/event"
)

// Places in an encoded batch (record format 2), after the four bytes of its size.
const (
	sizePrefix = 4
	placeCRC   = sizePrefix + 17
	placeBody  = sizePrefix + 21 // what the checksum covers begins here
	placeID    = sizePrefix + 43
	placeEpoch = sizePrefix + 51
	placeSeq   = sizePrefix + 53
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode makes the batch of the records at positions. kafka-go writes every
// batch as that of a producer without an identity; it is patched in here, and
// the checksum made anew.
func encode(records []event.Record, positions []int, id identity, sequence int32) ([]byte, error) {
	now := time.Now()
	in := make([]protocol.Record, len(positions))
	for n, i := range positions {
		in[n] = protocol.Record{Time: now, Key: protocol.NewBytes(records[i].Key), Value: protocol.NewBytes(records[i].Value), Headers: headers(records[i].Headers)}
	}
	set := protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(in...)}
	var buf bytes.Buffer
	if _, err := set.WriteTo(&buf); err != nil {
		return nil, fmt.Errorf("encode %d records: %w", len(positions), err)
	}
	b := buf.Bytes()
	binary.BigEndian.PutUint64(b[placeID:], uint64(id.producer))
	binary.BigEndian.PutUint16(b[placeEpoch:], uint16(id.epoch))
	binary.BigEndian.PutUint32(b[placeSeq:], uint32(sequence))
	binary.BigEndian.PutUint32(b[placeCRC:], crc32.Checksum(b[placeBody:], castagnoli))
	return b, nil
}

func headers(in []event.Header) []protocol.Header {
	out := make([]protocol.Header, len(in))
	for i, h := range in {
		out[i] = protocol.Header{Key: h.Key, Value: h.Value}
	}
	return out
}

func raw(encoded []byte) protocol.RawRecordSet {
	return protocol.RawRecordSet{Reader: bytes.NewReader(encoded)}
}
