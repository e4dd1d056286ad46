package main

import (
	"encoding/json"
	"os"
	"time"
)

// clock counts nanoseconds since the run began, on the monotonic clock.
type clock struct{ began time.Time }

func (c clock) now() int64 { return int64(time.Since(c.began)) }

// file holds JSON lines; writes must not overlap.
type file struct{ f *os.File }

func (f *file) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = f.f.Write(append(b, '\n'))
	return err
}
