package record

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"time"
)

// NewID makes a UUIDv7 (RFC 9562) that contains t in microseconds, so that ids
// of one writer are in the order of their changes.
func NewID(t time.Time) string {
	var id [16]byte
	// Unique, not secret: math/rand's ChaCha8, seeded by the system, is enough and
	// asks the kernel for nothing while all changes wait.
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	micros := uint64(t.UnixMicro())
	milli, rest := micros/1000, micros%1000
	binary.BigEndian.PutUint64(id[:8], milli<<16|0x7000|rest*4096/1000)
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
