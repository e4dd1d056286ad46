package ledger_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/ledger/ledgertest"
)

// oracle is the log as a map and a slice.
type oracle struct {
	order []string
	at    map[string]int64
	body  map[string]string
}

func (o *oracle) expect(key, body string, full bool) (seq int64, kind string) {
	if at, ok := o.at[key]; ok {
		if o.body[key] == body {
			return at, "duplicate"
		}
		return at, "conflict"
	}
	if full {
		return 0, "full"
	}
	o.order = append(o.order, key)
	o.at[key], o.body[key] = int64(len(o.order)), body
	return o.at[key], "new"
}

func kindOf(out ledger.Outcome) (int64, string) {
	var conflict *ledger.ConflictError
	var full *ledger.FullError
	switch {
	case errors.As(out.Err, &conflict):
		return conflict.Seq, "conflict"
	case errors.As(out.Err, &full):
		return 0, "full"
	case out.Err != nil:
		return 0, out.Err.Error()
	case out.Duplicate:
		return out.Seq, "duplicate"
	}
	return out.Seq, "new"
}

// Any mix of appends, repetitions, conflicts, full disks, torn ends and restarts
// gives the oracle's result, and the file agrees after every step.
func TestAgainstOracle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "ledger")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "audit.log")
		var file *faultyFile
		open := func() *ledger.Ledger {
			l, err := ledger.Open(context.Background(), ledger.Config{Path: path, Wrap: func(f ledger.File) ledger.File {
				file = &faultyFile{File: f}
				return file
			}})
			if err != nil {
				rt.Fatal(err)
			}
			return l
		}
		l := open()
		defer func() { l.Close() }()
		o := &oracle{at: map[string]int64{}, body: map[string]string{}}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				id, source := rapid.IntRange(1, 60).Draw(rt, "id"), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "source")
				body := rapid.SampledFrom([]string{`{}`, `{}`, `{}`, `[1, 2]`, "no JSON\n"}).Draw(rt, "body")
				full := rapid.IntRange(0, 5).Draw(rt, "full") == 0
				if full {
					cut := rapid.IntRange(0, 50).Draw(rt, "cut")
					file.write = func([]byte) (int, error) { return cut, syscall.ENOSPC }
				}
				e := ledger.Entry{ID: fmt.Sprint(id), Source: source, Type: "t", Data: []byte(body)}
				seq, kind := kindOf(l.Append(e)[0])
				file.write = nil
				wantSeq, wantKind := o.expect(fmt.Sprintf("%q %q", source, e.ID), body, full)
				if seq != wantSeq || kind != wantKind {
					rt.Fatalf("got %s %d, want %s %d", kind, seq, wantKind, wantSeq)
				}
			},
			"restart": func(rt *rapid.T) {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				tail := rapid.SampledFrom([]string{"", "", "\x00\x00", `{"seq":`, "x\n"}).Draw(rt, "tail")
				if len(o.order) == 0 && tail == "x\n" {
					tail = ""
				}
				f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					rt.Fatal(err)
				}
				_, err = f.WriteString(tail)
				if err := errors.Join(err, f.Close()); err != nil {
					rt.Fatal(err)
				}
				l = open()
				if (l.Recovered().Torn != nil) != (tail != "") {
					rt.Fatalf("tail %q: %+v", tail, l.Recovered().Torn)
				}
			},
			"": func(rt *rapid.T) {
				lines, err := ledgertest.Read(path)
				if err != nil {
					rt.Fatal(err)
				}
				if len(lines) != len(o.order) || l.Len() != int64(len(lines)) {
					rt.Fatalf("%d lines, %d entries, want %d", len(lines), l.Len(), len(o.order))
				}
				for i, line := range lines {
					if line.Key() != o.order[i] {
						rt.Fatalf("line %d is %s, want %s", i+1, line.Key(), o.order[i])
					}
				}
			},
		})
	})
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,-0.5e+7,true,null,"\u00e9\n"]}`, `01`, `"\x"`, `[1,]`, `{"a"}`, ` 1`, `-`, `1.`, `1e`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		trimmed := len(b) > 0 && b[0] > ' ' && b[len(b)-1] > ' '
		if got, want := ledger.ValidJSON(b), json.Valid(b); got != want && trimmed {
			t.Fatalf("%q: %v, encoding/json says %v", b, got, want)
		}
	})
}
