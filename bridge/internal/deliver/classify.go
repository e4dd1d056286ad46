package deliver

import "net/http"

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

// classify is the only place that decides what an answer means.
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
