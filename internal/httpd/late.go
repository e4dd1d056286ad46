package httpd

import (
	"net/http"
	"time"
)

// late is how a server that stops learns of requests that still come. Clients are led
// elsewhere by others (a Kubernetes node, a load balancer), which a busy machine does
// seconds late: a listener that is closed by the clock refuses what still comes, so the
// server asks its clients instead.
type late chan struct{}

func newLate() late { return make(late, 1) }

// note is called for each request after the stop. Its connection ends with the answer,
// so that the client's next request goes where the new ones go.
func (l late) note(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	select {
	case l <- struct{}{}:
	default: // one that is not read yet says the same
	}
}

// awaitQuiet returns true when no request has come for as long as quiet, and false
// after most: what is left of the grace is for the requests in progress.
func (l late) awaitQuiet(quiet, most time.Duration) bool {
	if quiet == 0 {
		return true
	}
	silent, enough := time.NewTimer(quiet), time.NewTimer(most)
	defer silent.Stop()
	defer enough.Stop()
	for {
		select {
		case <-l:
			silent.Reset(quiet)
		case <-silent.C:
			return true
		case <-enough.C:
			return false
		}
	}
}
