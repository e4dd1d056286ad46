package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/failpoint"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
)

// answer is the body of a 2xx.
type answer struct {
	Seq       int64 `json:"seq"`
	Duplicate bool  `json:"duplicate"`
}

// AppendJSON writes what encoding/json would.
func (a answer) AppendJSON(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"seq":`...), a.Seq, 10)
	return append(strconv.AppendBool(append(b, `,"duplicate":`...), a.Duplicate), '}')
}

// receive makes the events durable and answers for each.
func (s *Service) receive(_ context.Context, events []event.Event) []sink.Result {
	failpoint.Hit("U1")
	entries := make([]ledger.Entry, 0, len(events))
	results := make([]sink.Result, len(events))
	for i, e := range events {
		if refused := s.signatures.refuse(e); refused != nil {
			results[i] = *refused
			continue
		}
		entries = append(entries, entryOf(e))
	}
	if len(entries) == 0 {
		return results
	}
	outcomes := s.ledger.Append(entries...)
	next := 0 // of outcomes: the events that were not refused, in order
	for i := range results {
		if results[i].Problem == nil {
			results[i] = s.result(&entries[next], outcomes[next])
			next++
		}
	}
	return results
}

// entryOf stores each attribute as its canonical text, so that an event is the
// same in structured and binary form; only the version is a number, in both.
func entryOf(e event.Event) ledger.Entry {
	entry := ledger.Entry{ID: e.ID(), Source: e.Source(), Type: e.Type(), Base64: !event.JSONType(e)}
	if data := e.Data(); len(data) > 0 {
		entry.Data = data
	}
	texts := event.Texts(e)
	entry.Attributes = make([]ledger.Attribute, 0, len(texts))
	for _, a := range texts {
		switch a.Name {
		case "id", "source", "type":
			continue
		case "time":
			entry.Time = a.Text
			continue
		case event.VersionOfTask:
			if n, ok := event.TaskVersion(e); ok {
				entry.Attributes = append(entry.Attributes, ledger.Attribute{Name: a.Name, Value: n})
				continue
			}
		}
		entry.Attributes = append(entry.Attributes, ledger.Attribute{Name: a.Name, Value: a.Text})
	}
	return entry
}

// result is the one place that turns an outcome into the answer, the log line
// and the metric.
func (s *Service) result(e *ledger.Entry, out ledger.Outcome) sink.Result {
	var conflict *ledger.ConflictError
	var invalid *ledger.InvalidError
	switch {
	case out.Err == nil && out.Duplicate:
		s.metrics.duplicates.Inc()
		if s.log.Enabled(context.Background(), slog.LevelDebug) {
			s.log.Debug("duplicate event", append(trail(e), "seq", out.Seq)...)
		}
		return sink.Result{Status: http.StatusOK, Body: answer{out.Seq, true}}
	case out.Err == nil:
		s.logNew(e, out)
		return sink.Result{Status: http.StatusCreated, Body: answer{out.Seq, false}}
	case errors.As(out.Err, &conflict):
		s.metrics.conflicts.Inc()
		s.log.Error("ALARM: event refused: the log has the same source and id with other content", append(trail(e), "task_id", e.TaskID(), "seq", conflict.Seq)...)
		return sink.Result{Problem: &httpd.Problem{Status: http.StatusConflict, Title: "Same event, other content",
			Detail: fmt.Sprintf("entry %d has the same source and id and other content", conflict.Seq)}}
	case errors.As(out.Err, &invalid):
		return sink.Result{Problem: &httpd.Problem{Status: http.StatusBadRequest, Title: "Not a CloudEvent", Detail: invalid.Error(),
			Errors: []httpd.ProblemItem{{Pointer: "#/" + invalid.Attribute, Detail: invalid.Reason}}}}
	}
	return s.unable(out.Err)
}

// trail are the attributes by which an event is followed through the logs of all services.
func trail(e *ledger.Entry) []any {
	correlation, _ := e.Attribute(event.CorrelationID).(string)
	parent, _ := e.Attribute(event.TraceParent).(string)
	return sink.Trail(e.ID, e.Type, correlation, parent)
}

func (s *Service) logNew(e *ledger.Entry, out ledger.Outcome) {
	gap := out.VersionGap
	wanted := s.log.Enabled(context.Background(), slog.LevelInfo) // making the line costs more than writing it
	if !wanted && gap == nil {
		return
	}
	task := e.TaskID()
	if wanted {
		// Type and task are part of the message by contract.
		s.log.Info("AUDIT: "+e.Type+" - task_id="+task, append(trail(e), "task_id", task, "seq", out.Seq)...)
	}
	if gap != nil {
		s.log.Warn("task version gap", append(trail(e), "task_id", task, "seq", out.Seq,
			"version", gap.Version, "last_version", gap.Last, "step_back", gap.Back())...)
	}
}

// unable answers when the cause is not the event. The reason goes to the log only:
// a sender can only wait.
func (s *Service) unable(err error) sink.Result {
	retry := time.Second
	var full *ledger.FullError
	var unavailable *pgledger.UnavailableError
	if errors.As(err, &full) {
		retry = full.RetryAfter()
	}
	if full != nil || errors.As(err, &unavailable) {
		s.fullLog.Do(func() { s.log.Error("cannot store events", "err", err) })
	}
	return sink.Result{RetryAfter: retry, Problem: &httpd.Problem{Status: http.StatusServiceUnavailable, Detail: "cannot store events now"}}
}
