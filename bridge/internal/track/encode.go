package track

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// MaxMetadata is the largest size of the metadata that Commit returns: what a Kafka broker
// accepts by default (offset.metadata.max.bytes, 4096) less the room for a seal, which whoever
// commits may put before it.
const MaxMetadata = maxStored - 48

// maxStored is the largest metadata that New reads: maps were once written up to it.
const maxStored = 4096

// A map is written as text:
//
//	tw1 FORM BASE64(CRC PAYLOAD)
//
// without the spaces. tw1 is the version. FORM is b or r. CRC is four bytes, the Castagnoli
// checksum of the committed offset (eight bytes, big endian), the form and the payload: a
// map that is damaged, truncated, or committed with another offset would otherwise mark
// records as done that were never delivered.
//
// Form b is a bitset: bit i (least significant first) is the offset i+1 above the committed
// one. Form r is run lengths, as unsigned varints: a number of offsets not done, then a
// number done, and so on, from the committed offset up; the last run is done. The shorter
// form is used.
const (
	version  = "tw1"
	formBits = 'b'
	formRuns = 'r'

	prefixLen  = 4 // version and form
	maxPayload = (MaxMetadata-prefixLen)*3/4 - crc32.Size
	maxBits    = maxPayload * 8

	// maxOffset is far above any offset of a log, and low enough that no sum of two
	// overflows.
	maxOffset = 1 << 62

	// headroom is how many records may still be received after Full has returned false: a
	// fetch passes on some more before it asks again.
	headroom = 128
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the map of the done offsets above the watermark, "" when there are none or
// the map does not fit: without a map records are delivered again after a restart, but none
// is lost.
func (t *Tracker) encode(watermark int64) string {
	runs := t.doneRuns(watermark)
	if len(runs) == 0 {
		return ""
	}
	reach := runs[len(runs)-1].last - watermark
	bitsLen := reach/8 + min(reach%8, 1)
	form, buf := byte(formRuns), t.buffer()
	buf = appendRuns(buf, watermark, runs)
	if bitsLen < int64(len(buf)-crc32.Size) {
		form, buf = formBits, appendBits(t.buffer(), watermark, runs, int(bitsLen))
	}
	t.scratch = buf
	if len(buf)-crc32.Size > maxPayload {
		return ""
	}
	binary.BigEndian.PutUint32(buf, sum(watermark, form, buf[crc32.Size:]))
	return version + string(form) + base64.RawStdEncoding.EncodeToString(buf)
}

// buffer returns the scratch memory with room for the checksum at its start.
func (t *Tracker) buffer() []byte { return append(t.scratch[:0], make([]byte, crc32.Size)...) }

func appendRuns(buf []byte, watermark int64, runs []span) []byte {
	from := watermark
	for _, r := range runs {
		buf = binary.AppendUvarint(buf, uint64(r.first-from))
		buf = binary.AppendUvarint(buf, uint64(r.last-r.first+1))
		from = r.last + 1
	}
	return buf
}

func appendBits(buf []byte, watermark int64, runs []span, n int) []byte {
	start := len(buf)
	buf = append(buf, make([]byte, n)...)
	set := buf[start:]
	for _, r := range runs {
		for i := r.first - watermark - 1; i <= r.last-watermark-1; i++ {
			set[i>>3] |= 1 << (i & 7)
		}
	}
	return buf
}

// worstRuns is the largest size of form r for a number of holes, offsets that are not done,
// within reach offsets. Each hole costs one byte and one run of done offsets, and a run
// costs its second byte only from 128 offsets on, its third from 16384, and so on: adjacent
// holes cost less than separate ones. Wide holes are of any width and may need as many bytes
// as a run.
func worstRuns(holes, wide, reach int64) int64 {
	n := 2 * (holes + wide + 1)
	for shift := 7; shift < 63; shift += 7 {
		n += min(holes+2*wide+1, reach>>shift)
	}
	return n
}

func sum(committed int64, form byte, payload []byte) uint32 {
	var head [9]byte
	binary.BigEndian.PutUint64(head[:], uint64(committed))
	head[8] = form
	return crc32.Update(crc32.Checksum(head[:], castagnoli), castagnoli, payload)
}

// decode reads the map that was committed with an offset.
func decode(committed int64, metadata string) ([]span, error) {
	if len(metadata) > maxStored {
		return nil, fmt.Errorf("metadata of %d bytes is too long for a map", len(metadata))
	}
	text, ok := strings.CutPrefix(metadata, version)
	if !ok || text == "" {
		return nil, errors.New("metadata of another program or version")
	}
	form := text[0]
	buf, err := base64.RawStdEncoding.Strict().DecodeString(text[1:])
	if err != nil {
		return nil, fmt.Errorf("map is not base64: %w", err)
	}
	if len(buf) < crc32.Size {
		return nil, errors.New("map is truncated")
	}
	payload := buf[crc32.Size:]
	if binary.BigEndian.Uint32(buf) != sum(committed, form, payload) {
		return nil, errors.New("map is damaged or belongs to another offset")
	}
	switch {
	case committed < 0:
		return nil, errors.New("map without a committed offset")
	case form == formBits:
		return decodeBits(committed, payload)
	case form == formRuns:
		return decodeRuns(committed, payload)
	}
	return nil, fmt.Errorf("map of unknown form %q", form)
}

func decodeRuns(committed int64, payload []byte) ([]span, error) {
	var spans []span
	next := uint64(committed)
	if next > maxOffset {
		return nil, errors.New("map of an impossible offset")
	}
	for len(payload) > 0 {
		var length [2]uint64
		for i := range length {
			v, n := binary.Uvarint(payload)
			if n <= 0 || v == 0 || v > maxOffset-next {
				return nil, errors.New("map contains a run of an impossible length")
			}
			length[i], payload, next = v, payload[n:], next+v
		}
		spans = append(spans, span{int64(next - length[1]), int64(next - 1)})
	}
	return spans, nil
}

func decodeBits(committed int64, payload []byte) ([]span, error) {
	if committed > maxOffset {
		return nil, errors.New("map of an impossible offset")
	}
	var spans []span
	for i := range int64(len(payload)) * 8 {
		if payload[i>>3]&(1<<(i&7)) == 0 {
			continue
		}
		offset := committed + 1 + i
		if n := len(spans); n > 0 && spans[n-1].last+1 == offset {
			spans[n-1].last = offset
			continue
		}
		spans = append(spans, span{offset, offset})
	}
	return spans, nil
}
