package acceptance_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/rogpeppe/go-internal/testscript"
)

// entry is the part of an audit log line that auditlog checks.
type entry struct {
	Seq        int64          `json:"seq"`
	EventID    string         `json:"event_id"`
	EventType  string         `json:"event_type"`
	Metadata   map[string]any `json:"metadata"`
	Attributes struct {
		Subject     string `json:"subject"`
		TaskVersion any    `json:"taskversion"`
	} `json:"attributes"`
}

// auditlog check checks the promise of the whole system on the audit log: numbers
// run from 1 without a gap, no event appears twice, and the versions of each
// task are 1, 2, 3 ... in this order.
func auditlog(_ context.Context, w *world, _ *testscript.TestScript, args []string) error {
	if len(args) != 1 || args[0] != "check" {
		return errors.New("usage: auditlog check")
	}
	text, err := w.auditText()
	if err != nil {
		return err
	}
	seen, versions := map[string]int64{}, map[string]int{}
	seq := int64(0)
	for line := range bytes.Lines(text) {
		seq++
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("line %d: %w", seq, err)
		}
		if e.Seq != seq {
			return fmt.Errorf("line %d has seq %d", seq, e.Seq)
		}
		id := fmt.Sprint(e.Metadata["source"], " ", e.EventID)
		if first, ok := seen[id]; ok {
			return fmt.Errorf("line %d repeats event %s of line %d", seq, id, first)
		}
		seen[id] = seq
		if e.Attributes.TaskVersion == nil {
			continue // from the original's publisher, which has no versions
		}
		versions[e.Attributes.Subject]++
		if want := fmt.Sprint(versions[e.Attributes.Subject]); fmt.Sprint(e.Attributes.TaskVersion) != want {
			return fmt.Errorf("line %d has version %v of task %s, want %s", seq, e.Attributes.TaskVersion, e.Attributes.Subject, want)
		}
	}
	return nil
}
