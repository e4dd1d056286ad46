package fetch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/internal/event"
)

// encode makes a batch of format 2. Offsets of recs ascend; last is that of the
// batch, which compaction may leave above its last record's.
func encode(t testing.TB, recs []Record, last int64, codec compress.Compression, control bool) []byte {
	t.Helper()
	var body []byte
	varbytes := func(b, v []byte) []byte {
		if v == nil {
			return binary.AppendVarint(b, -1)
		}
		return append(binary.AppendVarint(b, int64(len(v))), v...)
	}
	base, first := recs[0].Offset, recs[0].Time.UnixMilli()
	for _, r := range recs {
		one := []byte{0}
		one = binary.AppendVarint(one, r.Time.UnixMilli()-first)
		one = binary.AppendVarint(one, r.Offset-base)
		one = varbytes(one, r.Key)
		one = varbytes(one, r.Value)
		one = binary.AppendVarint(one, int64(len(r.Headers)))
		for _, h := range r.Headers {
			one = varbytes(varbytes(one, []byte(h.Key)), h.Value)
		}
		body = append(binary.AppendVarint(body, int64(len(one))), one...)
	}
	if codec != compress.None {
		body = compressed(t, codec, body)
	}
	return frame(body, base, last, first, len(recs), codec, control)
}

func compressed(t testing.TB, codec compress.Compression, body []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := codec.Codec().NewWriter(&out)
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func frame(body []byte, base, last, first int64, n int, codec compress.Compression, control bool) []byte {
	b := make([]byte, headerSize, headerSize+len(body))
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[atLength:], uint32(headerSize-atLength-4+len(body)))
	b[atMagic] = 2
	attributes := uint16(codec)
	if control {
		attributes |= controlBit
	}
	binary.BigEndian.PutUint16(b[atAttributes:], attributes)
	binary.BigEndian.PutUint32(b[atLastDelta:], uint32(last-base))
	binary.BigEndian.PutUint64(b[atFirstTime:], uint64(first))
	binary.BigEndian.PutUint32(b[atCount:], uint32(n))
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[atChecksum:], crc32.Checksum(b[atSummed:], castagnoli))
	return b
}

func record(offset int64, value string) Record {
	return Record{Offset: offset, Record: event.Record{Time: time.UnixMilli(1_700_000_000_000 + offset), Key: []byte("k"), Value: []byte(value)}}
}

// all reads to the end.
func all(r *Records) (out []Record, err error) {
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, rec)
	}
}

var codecs = []compress.Compression{compress.None, compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd}

// Whatever the batches hold, however they are compressed, and wherever reading
// pauses: each record from the offset asked for is read once, as it was written.
func TestReadReturnsWhatWasWritten(t *testing.T) {
	some := rapid.Custom(func(t *rapid.T) []byte {
		if rapid.Bool().Draw(t, "nil") {
			return nil
		}
		return append([]byte{}, bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "bytes"), rapid.IntRange(1, 300).Draw(t, "times"))...)
	})
	rapid.Check(t, func(rt *rapid.T) {
		var raw []byte
		var want []Record
		next := rapid.Int64Range(0, 1<<40).Draw(rt, "base")
		for range rapid.IntRange(0, 4).Draw(rt, "batches") {
			var recs []Record
			for range rapid.IntRange(1, 20).Draw(rt, "records") {
				next += rapid.Int64Range(1, 3).Draw(rt, "gap")
				rec := Record{Offset: next, Record: event.Record{Time: time.UnixMilli(rapid.Int64Range(0, 1<<41).Draw(rt, "time")), Key: some.Draw(rt, "key"), Value: some.Draw(rt, "value")}}
				for range rapid.IntRange(0, 2).Draw(rt, "headers") {
					rec.Headers = append(rec.Headers, event.Header{Key: rapid.StringN(0, 5, 10).Draw(rt, "name"), Value: some.Draw(rt, "header")})
				}
				recs = append(recs, rec)
			}
			next += rapid.Int64Range(0, 2).Draw(rt, "compacted")
			control := rapid.IntRange(0, 5).Draw(rt, "control") == 0
			raw = append(raw, encode(t, recs, next, rapid.SampledFrom(codecs).Draw(rt, "codec"), control)...)
			if !control {
				want = append(want, recs...)
			}
		}
		from := int64(0)
		if len(want) > 0 {
			from = want[rapid.IntRange(0, len(want)-1).Draw(rt, "from")].Offset
			for want[0].Offset < from {
				want = want[1:]
			}
		}
		r := Read(raw, from, 1<<20)
		var got []Record
		for {
			rec, err := r.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				rt.Fatal(err)
			}
			got = append(got, rec)
			if rapid.IntRange(0, 3).Draw(rt, "pause") == 0 {
				r.Pause()
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("records (-want +got):\n%s", diff)
		}
		if len(raw) > 0 && r.Next() != max(from, next+1) {
			rt.Fatalf("Next = %d, want %d: after the last batch, also where compaction or a marker left no record", r.Next(), next+1)
		}
	})
}

func TestReadRefusesDamage(t *testing.T) {
	good := encode(t, []Record{record(5, "a"), record(6, "b")}, 6, compress.None, false)
	changed := func(at int, b byte) []byte {
		raw := bytes.Clone(good)
		raw[at] = b
		return raw
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"a bit of a value":     {changed(len(good)-3, 'x'), "does not match its checksum"},
		"an old format":        {changed(atMagic, 1), "format 1: only format 2"},
		"no such codec":        {frame(nil, 5, 6, 0, 2, 7, false), "unknown compression 7"},
		"not zstd":             {frame([]byte("what"), 5, 6, 0, 2, compress.Zstd, false), "record 1 of the batch at offset 5"},
		"fewer records":        {frame(good[headerSize:], 5, 6, 0, 3, compress.None, false), "record 3 of the batch at offset 5"},
		"a negative size":      {frame(binary.AppendVarint(nil, -5), 5, 5, 0, 1, compress.None, false), "negative size"},
		"a length beyond":      {frame([]byte{12, 0, 0, 0, 126, 'k', 0}, 5, 5, 0, 1, compress.None, false), "exceeds the record"},
		"headers without end":  {frame([]byte{12, 0, 0, 0, 1, 1, 126}, 5, 5, 0, 1, compress.None, false), "exceeds the record"},
		"a batch in part only": {good[:len(good)-1], ""},
		"a header in part":     {good[:headerSize-1], ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := all(Read(c.raw, 0, 1<<20))
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("err = %v, want one with %q", err, c.want)
			}
		})
	}
}

// Half a gigabyte in half a megabyte: the record is named and not read.
func TestReadTakesNoBombIn(t *testing.T) {
	const size = 512 << 20
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(1<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	head := append(binary.AppendVarint(nil, size), 0, 0)
	head = append(binary.AppendVarint(head, 3), 1) // offset 5+3, no key
	head = binary.AppendVarint(head, size-20)
	zeros := make([]byte, 1<<20)
	_, err = w.Write(head)
	for range size >> 20 {
		_, e := w.Write(zeros)
		err = errors.Join(err, e)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	raw := frame(out.Bytes(), 5, 8, 0, 1, compress.Zstd, false)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = all(Read(raw, 0, 8<<20))
	runtime.ReadMemStats(&after)
	var tooLarge *TooLargeError
	if !errors.As(err, &tooLarge) {
		t.Fatalf("err = %v, want a *TooLargeError", err)
	}
	if diff := cmp.Diff(&TooLargeError{Offset: 8, Size: size, Limit: 8 << 20}, tooLarge); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 16<<20 {
		t.Errorf("reading it allocated %d MiB", took>>20)
	}
}

func TestReadRefusesALargeWindow(t *testing.T) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	for range 80 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = all(Read(frame(out.Bytes(), 0, 0, 0, 1, compress.Zstd, false), 0, 1<<20))
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("err = %v, want %v", err, zstd.ErrWindowSizeExceeded)
	}
}

// Nothing that a broker sends makes reading panic, loop or allocate beyond the limit.
func FuzzRead(f *testing.F) {
	for _, codec := range codecs {
		f.Add(encode(f, []Record{record(3, "a"), record(4, "b")}, 7, codec, false), int64(4))
	}
	f.Fuzz(func(t *testing.T, raw []byte, from int64) {
		if len(raw) >= headerSize { // a right checksum lets the fuzzer through
			binary.BigEndian.PutUint32(raw[atLength:], uint32(len(raw)-atLength-4))
			binary.BigEndian.PutUint32(raw[atChecksum:], crc32.Checksum(raw[atSummed:], castagnoli))
		}
		r := Read(raw, from, 1<<16)
		recs, err := all(r)
		r.Pause()
		again, err2 := all(Read(raw, from, 1<<16))
		if (err == nil) != (err2 == nil) || len(recs) != len(again) {
			t.Errorf("read twice: %d records, %v; then %d, %v", len(recs), err, len(again), err2)
		}
	})
}
