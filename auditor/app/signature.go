package app

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
)

const verifyKeysFile = "EVENT_VERIFY_KEYS_FILE"

// signatures holds events to the word of their producers.
type signatures struct {
	verifier *eventsign.Verifier
	refused  *prometheus.CounterVec
	log      *slog.Logger
	warning  rate.Sometimes
}

// newSignatures returns nil without a file: then events are stored as they come.
func newSignatures(path string, server *httpd.Server, log *slog.Logger) (*signatures, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // nil is a signatures that accepts every event
	}
	verifier, err := eventsign.OpenVerifier(path, log)
	if err != nil {
		return nil, errors.Join(errors.New("read "+verifyKeysFile), err)
	}
	s := &signatures{verifier: verifier, log: log, warning: rate.Sometimes{Interval: time.Second}, refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "taskwire_audit_signature_failures_total", Help: "Events refused because their producer's signature is missing or wrong.",
	}, []string{"reason"})}
	for _, reason := range eventsign.Reasons {
		s.refused.WithLabelValues(string(reason))
	}
	server.Registry().MustRegister(s.refused)
	server.Ready(httpd.Check{Name: verifyKeysFile, Func: verifier.Err})
	return s, nil
}

// trailOf is trail for an event that is no entry.
func trailOf(e event.Event) []any {
	correlation, _ := event.Attribute(e, event.CorrelationID)
	parent, _ := event.Attribute(e, event.TraceParent)
	return sink.Trail(e.ID(), e.Type(), correlation, parent)
}

// refuse returns the answer to an event that is not its producer's word, nil for
// any other.
//
// 403 tells the bridge that something is wrong with us or with what we are set to,
// so that it waits and raises an alarm. After a rotation in the wrong order that is
// true, and the event goes through by itself when the keys are right. A status that
// blames the event would make a dead letter of every event at once. A forged event
// holds up its own task only, until bridge skip removes it.
func (s *signatures) refuse(e event.Event) *sink.Result {
	if s == nil {
		return nil
	}
	err := s.verifier.Verify(e)
	if err == nil {
		return nil
	}
	reason := eventsign.Wrong
	if failed := (*eventsign.Error)(nil); errors.As(err, &failed) {
		reason = failed.Reason
	}
	s.refused.WithLabelValues(string(reason)).Inc()
	s.warning.Do(func() {
		s.log.Error("ALARM: event refused: it is not its producer's word", append(trailOf(e), "reason", string(reason), "err", err)...)
	})
	return &sink.Result{Problem: &httpd.Problem{Status: http.StatusForbidden, Title: "Not its producer's word",
		Detail: err.Error(), Errors: []httpd.ProblemItem{{Pointer: "#/" + eventsign.Attribute, Detail: string(reason)}}}}
}
