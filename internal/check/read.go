package check

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const maxLine = 16 << 20

// lines calls do with each line of a file. A last line without a line feed is
// given to torn, which may be nil.
func lines(path string, do func(line []byte) error, torn func(rest []byte)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	var long []byte
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) && len(long) < maxLine {
			long = append(long, line...)
			line, err = r.ReadSlice('\n')
		}
		if len(long) > 0 {
			long = append(long, line...)
			line = long
		}
		switch {
		case errors.Is(err, io.EOF):
			if len(line) > 0 && torn != nil {
				torn(line)
			}
			return nil
		case err != nil:
			return fmt.Errorf("read %s line %d: %w", path, n, err)
		}
		if err := do(line); err != nil {
			return fmt.Errorf("%s line %d: %w", path, n, err)
		}
		long = long[:0]
	}
}

// each decodes the lines of a file that may be missing.
func each[T any](dir, name string, do func(T) error) error {
	err := lines(filepath.Join(dir, name), func(line []byte) error {
		var v T
		if err := json.Unmarshal(line, &v); err != nil {
			return err
		}
		return do(v)
	}, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func readRun(dir string) (Run, error) {
	var r Run
	b, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("run.json: %w", err)
	}
	return r, nil
}
