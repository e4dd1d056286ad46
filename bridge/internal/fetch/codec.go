package fetch

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
)

// maxWindow bounds what a zstd frame may ask a decoder to hold. Producers stay
// at or below 8 MiB up to level 19.
const maxWindow = 8 << 20

// decoders are closed readers' zstd decoders.
var decoders sync.Pool

// decompress reads the records of a batch. The library's zstd reader takes
// whatever window a frame asks for, up to half a gigabyte; the other codecs
// hold 4 MiB at most.
func decompress(codec compress.Compression, r io.Reader) (io.ReadCloser, error) {
	if codec != compress.Zstd {
		c := codec.Codec()
		if c == nil {
			return nil, fmt.Errorf("unknown compression %d", codec)
		}
		return c.NewReader(r), nil
	}
	d, _ := decoders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		d, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<40))
		if err != nil {
			return nil, err
		}
	}
	if err := d.Reset(r); err != nil {
		return nil, err
	}
	return &zstdReader{d}, nil
}

type zstdReader struct{ d *zstd.Decoder }

func (z *zstdReader) Read(p []byte) (int, error) { return z.d.Read(p) }

func (z *zstdReader) Close() error {
	err := z.d.Reset(nil)
	decoders.Put(z.d)
	return err
}
