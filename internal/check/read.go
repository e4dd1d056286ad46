package check

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// entry is what is kept of a line of the audit log.
type entry struct {
	nonce, event id
	data, state  id
	end          int64 // byte after the line
	version      int64
	ackAt        int64 // when the auditor first said 2xx for it
	task         int32
	row          bool // the database has it
}

// logLine is the contract's line; the pointers tell a missing member from an empty one.
type logLine struct {
	Seq      int64           `json:"seq"`
	Event    string          `json:"event_id"`
	Type     string          `json:"event_type"`
	Occurred *string         `json:"occurred_at"`
	Data     json.RawMessage `json:"data"`
	Base64   *string         `json:"data_base64"`
	Meta     *struct {
		Nonce  string `json:"correlation_id"`
		Source string `json:"source"`
	} `json:"metadata"`
	Attributes *struct {
		Subject string `json:"subject"`
		Version int64  `json:"taskversion"`
	} `json:"attributes"`
	Audited string `json:"audited_at"`
}

// taskData is the data of an event: exactly these four.
type taskData struct {
	Task   string  `json:"task_id"`
	Title  string  `json:"title"`
	Status string  `json:"status"`
	Owner  *string `json:"owner_id"`
}

func (d taskData) state() string {
	owner := ""
	if d.Owner != nil {
		owner = *d.Owner
	}
	return State(d.Title, d.Status, owner)
}

// readLog indexes audit.log and compares the snapshots on the way.
func (j *judge) readLog() error {
	hash := sha256.New()
	var at int64
	shots := j.snapshots
	compare := func() {
		for len(shots) > 0 && shots[0].Size == at {
			if got := hex.EncodeToString(hash.Sum(nil)); got != shots[0].Sum {
				j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("prefix: the first %d bytes of audit.log were others during the run", at)})
			}
			shots = shots[1:]
		}
	}
	compare()
	err := lines(filepath.Join(j.dir, "audit.log"), func(line []byte) error {
		hash.Write(line)
		at += int64(len(line))
		compare()
		j.addLine(line, at)
		return nil
	}, func([]byte) {
		j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("torn: audit.log has no line feed after byte %d", at)})
	})
	if err != nil {
		return err
	}
	for _, s := range shots {
		j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("prefix: audit.log had a line that ended at byte %d and is %d bytes long now", s.Size, at)})
	}
	return nil
}

// addLine takes a line in; one that cannot be read is a finding and no entry.
func (j *judge) addLine(line []byte, end int64) {
	number := j.lineNumber
	j.lineNumber++
	var l logLine
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&l); err != nil || l.Meta == nil || l.Attributes == nil || l.Event == "" || l.Audited == "" {
		j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("line: audit.log line %d is not an entry (%v)", number+1, err)})
		return
	}
	if l.Seq != int64(number+1) {
		if !j.chainBroken { // one cut renumbers all that follow
			j.find(Finding{Rule: "ALTERED", Why: fmt.Sprintf("chain: audit.log line %d has seq %d", number+1, l.Seq), Event: l.Event})
		}
		j.chainBroken = true
	}
	e := entry{nonce: idOf(l.Meta.Nonce), event: eventID(l.Meta.Source, l.Event), end: end, version: l.Attributes.Version,
		task: j.task(l.Attributes.Subject), ackAt: never, data: idOf(Sum(l.Data))}
	var d taskData
	strict := json.NewDecoder(bytes.NewReader(l.Data))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&d); err != nil || d.Task != l.Attributes.Subject {
		j.find(Finding{Rule: "ALTERED", Why: "data: not the four members of a task, or another task's", Event: l.Event, Task: l.Attributes.Subject})
	}
	e.state = idOf(d.state())
	j.entries = append(j.entries, e)
}

// histories lists the files of the clients.
func histories(dir string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(dir, "history-*.jsonl"))
	slices.Sort(names)
	return names, err
}
