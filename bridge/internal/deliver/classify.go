package deliver

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
)

// Outcome is what an attempt means for the event. Its names are metric labels.
type Outcome string

// Outcomes.
const (
	Accepted  Outcome = "accepted"   // the sink has the event
	Retry     Outcome = "retry"      // the sink could not take it now
	Throttled Outcome = "throttled"  // the sink wants no request of any kind for a while
	SinkFault Outcome = "sink_fault" // the sink or its address is wrong, not the event
	Gone      Outcome = "gone"       // the sink asks never to be called again
	Rejected  Outcome = "rejected"   // the sink refuses this event
)

// classify and classifyError are the only place that decides what an attempt means.
func classify(status int) Outcome {
	switch status {
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		return Accepted
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return Retry // the sink asks for a later attempt
	case http.StatusTooManyRequests:
		return Throttled
	case http.StatusGone:
		return Gone
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusProxyAuthRequired:
		return SinkFault // a wrong address or credential refuses every event alike
	}
	switch {
	case status >= 500:
		return Retry
	case status >= 400:
		return Rejected
	}
	// A redirect is never followed: it would turn the POST into a GET, and the page
	// at its end would answer 200. Other 2xx do not say that the sink has the event.
	return SinkFault
}

// classifyError is for an attempt without an answer. Most of them may go better
// the next time. But an address that no sink may have, a sink that cannot prove
// who it is or does not believe the bridge, and files that the bridge cannot use
// are for an operator to correct, and say nothing about the event.
func classifyError(err error) Outcome {
	var (
		address *RefusedError
		cert    *tls.CertificateVerificationError
		noTLS   tls.RecordHeaderError
		unsent  *unsentError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &address), errors.As(err, &unsent):
		return SinkFault
	case errors.As(err, &cert), errors.As(err, &noTLS), errors.Is(err, http.ErrSchemeMismatch):
		return SinkFault
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return SinkFault // what crypto/tls calls an alert, received or sent
	}
	return Retry
}
