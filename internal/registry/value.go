package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	magic     = 0
	headerLen = 5
	// maxJSON bounds what a value becomes: an event is no longer, and an array of
	// values that take no bytes would be as long as its writer says.
	maxJSON  = 1 << 20
	maxDepth = 128
)

// AppendHeader adds what stands in front of a value in Confluent's wire format.
func AppendHeader(dst []byte, id int) []byte {
	return binary.BigEndian.AppendUint32(append(dst, magic), uint32(id))
}

// CutHeader returns the id of a value's schema and the value.
func CutHeader(b []byte) (id int, value []byte, err error) {
	if len(b) < headerLen || b[0] != magic {
		return 0, nil, errors.New("the data is no Avro with a schema id: want a byte 0 and 4 bytes of id in front of it")
	}
	n := binary.BigEndian.Uint32(b[1:])
	if n > math.MaxInt32 {
		return 0, nil, errors.New("the data has a negative schema id")
	}
	return int(n), b[headerLen:], nil
}

// AppendJSON adds the value as JSON to dst: members in the order of the schema's
// fields, no white space, no escape that JSON does not require. The same bytes
// always give the same JSON. A union is the bare value of its branch; bytes and
// fixed are a string with a character from U+0000 to U+00FF for each byte; a logical
// type is what it is made of.
//
// The error repeats nothing of the value.
func (s *Schema) AppendJSON(dst, value []byte) ([]byte, error) {
	r := reader{in: value, out: dst, most: len(dst) + maxJSON}
	if err := r.value(s.root, 0); err != nil {
		return dst, fmt.Errorf("the data is not what its schema says, at byte %d: %w", len(value)-len(r.in), err)
	}
	if len(r.in) > 0 {
		return dst, fmt.Errorf("the data goes on for %d bytes after the value of its schema", len(r.in))
	}
	return r.out, nil
}

// reader reads in and writes out. Everything that it reads makes out longer, so the
// bound of out bounds its work, too.
type reader struct {
	in, out []byte
	most    int // length of out
}

var (
	errShort  = errors.New("it ends too early")
	errLong   = fmt.Errorf("as JSON it is longer than %d bytes", maxJSON)
	errDeep   = fmt.Errorf("it is nested deeper than %d", maxDepth)
	errVarint = errors.New("a number is out of its range")
	errUTF8   = errors.New("a string is not UTF-8")
)

func (r *reader) value(n *node, depth int) error {
	if depth > maxDepth {
		return errDeep
	}
	if len(r.out) > r.most {
		return errLong
	}
	switch n.kind {
	case kindNull:
		r.out = append(r.out, "null"...)
	case kindBoolean:
		return r.boolean()
	case kindInt, kindLong:
		return r.integer(n.kind)
	case kindFloat, kindDouble:
		return r.float(n.kind)
	case kindString:
		return r.text()
	case kindBytes:
		b, err := r.counted()
		if err != nil {
			return err
		}
		return r.bytes(b)
	case kindFixed:
		b, err := r.take(n.size)
		if err != nil {
			return err
		}
		return r.bytes(b)
	case kindEnum:
		i, err := r.index(len(n.names))
		if err != nil {
			return err
		}
		r.out = append(r.out, n.names[i]...)
	case kindUnion:
		i, err := r.index(len(n.members))
		if err != nil {
			return err
		}
		return r.value(n.members[i], depth+1)
	case kindArray:
		return r.array(n.members[0], depth+1)
	case kindMap:
		return r.object(n.members[0], depth+1)
	case kindRecord:
		return r.record(n, depth+1)
	}
	return nil
}

func (r *reader) record(n *node, depth int) error {
	r.out = append(r.out, '{')
	for i, member := range n.members {
		if i > 0 {
			r.out = append(r.out, ',')
		}
		r.out = append(r.out, n.names[i]...)
		if err := r.value(member, depth); err != nil {
			return err
		}
	}
	r.out = append(r.out, '}')
	return nil
}

func (r *reader) array(item *node, depth int) error {
	r.out = append(r.out, '[')
	first := true
	for {
		n, err := r.block()
		if err != nil || n == 0 {
			r.out = append(r.out, ']')
			return err
		}
		for ; n > 0; n-- {
			if !first {
				r.out = append(r.out, ',')
			}
			first = false
			if err := r.value(item, depth); err != nil {
				return err
			}
		}
	}
}

// object reads a map. Two values under one name would be read by everybody in
// another way.
func (r *reader) object(item *node, depth int) error {
	r.out = append(r.out, '{')
	seen := map[string]bool{}
	for {
		n, err := r.block()
		if err != nil || n == 0 {
			r.out = append(r.out, '}')
			return err
		}
		for ; n > 0; n-- {
			if len(seen) > 0 {
				r.out = append(r.out, ',')
			}
			from := len(r.out)
			if err := r.text(); err != nil {
				return err
			}
			name := string(r.out[from:])
			if seen[name] {
				return errors.New("a map has a key twice")
			}
			seen[name] = true
			r.out = append(r.out, ':')
			if err := r.value(item, depth); err != nil {
				return err
			}
		}
	}
}

// block is the number of items in the next block, 0 at the end. A negative number
// is followed by the block's length, for those who skip it.
func (r *reader) block() (n int64, err error) {
	if n, err = r.long(); err != nil {
		return 0, err
	}
	if n == math.MinInt64 {
		return 0, errVarint
	}
	if n < 0 {
		n = -n
		_, err = r.long()
	}
	return n, err
}

func (r *reader) boolean() error {
	b, err := r.take(1)
	if err != nil {
		return err
	}
	if b[0] > 1 {
		return errors.New("a boolean is neither 0 nor 1")
	}
	r.out = strconv.AppendBool(r.out, b[0] == 1)
	return nil
}

func (r *reader) integer(k kind) error {
	n, err := r.long()
	if err != nil {
		return err
	}
	if k == kindInt && (n < math.MinInt32 || n > math.MaxInt32) {
		return errVarint
	}
	r.out = strconv.AppendInt(r.out, n, 10)
	return nil
}

// float writes what JSON has no number for as text, as Avro's own JSON does.
func (r *reader) float(k kind) error {
	bits := 32
	if k == kindDouble {
		bits = 64
	}
	b, err := r.take(bits / 8)
	if err != nil {
		return err
	}
	f := 0.0
	if bits == 32 {
		f = float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	} else {
		f = math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	switch {
	case math.IsNaN(f):
		r.out = append(r.out, `"NaN"`...)
	case math.IsInf(f, 1):
		r.out = append(r.out, `"Infinity"`...)
	case math.IsInf(f, -1):
		r.out = append(r.out, `"-Infinity"`...)
	default:
		r.out = strconv.AppendFloat(r.out, f, 'g', -1, bits)
	}
	return nil
}

func (r *reader) text() error {
	b, err := r.counted()
	if err != nil {
		return err
	}
	if !utf8.Valid(b) {
		return errUTF8
	}
	if len(r.out)+len(b) > r.most {
		return errLong
	}
	r.out, err = jsontext.AppendQuote(r.out, b)
	return err
}

func (r *reader) bytes(b []byte) error {
	if len(r.out)+len(b) > r.most {
		return errLong
	}
	runes := make([]byte, 0, 2*len(b))
	for _, c := range b {
		runes = utf8.AppendRune(runes, rune(c))
	}
	out, err := jsontext.AppendQuote(r.out, runes)
	r.out = out
	return err
}

func (r *reader) index(n int) (int, error) {
	i, err := r.long()
	if err != nil {
		return 0, err
	}
	if i < 0 || i >= int64(n) {
		return 0, errors.New("an enum or a union has no such branch")
	}
	return int(i), nil
}

// long is a zig-zag varint.
func (r *reader) long() (int64, error) {
	n, length := binary.Varint(r.in)
	switch {
	case length == 0:
		return 0, errShort
	case length < 0:
		return 0, errVarint
	}
	r.in = r.in[length:]
	return n, nil
}

func (r *reader) counted() ([]byte, error) {
	n, err := r.long()
	if err != nil {
		return nil, err
	}
	if n < 0 {
		return nil, errVarint
	}
	if n > int64(len(r.in)) {
		return nil, errShort
	}
	return r.take(int(n))
}

func (r *reader) take(n int) ([]byte, error) {
	if n > len(r.in) {
		return nil, errShort
	}
	b := r.in[:n]
	r.in = r.in[n:]
	return b, nil
}
