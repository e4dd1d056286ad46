package app

import (
	"net/http"
	"slices"
	"strings"

	"github.com/taskwire/taskwire/bridge/internal/deliver"
	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
)

// callbackPrefix is followed by the secret of a subscription.
const callbackPrefix = "/handshake/"

// callbacks takes the calls by which sinks agree to deliveries, and passes all
// other requests on. It stands before the door of the admin API: a sink has no
// token of an operator. The secret in the path is what it has, and it opens
// nothing else.
func callbacks(subs func() []*pump.Subscription, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret, ok := strings.CutPrefix(r.URL.Path, callbackPrefix)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		r.Pattern = callbackPrefix // and not the path, which would become a label
		w.Header().Set("Cache-Control", "no-store")
		// Not HEAD: whoever only looks at an address agrees to nothing.
		if r.Method != http.MethodGet && r.Method != http.MethodPost {
			w.Header().Set("Allow", "GET, POST")
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusMethodNotAllowed})
			return
		}
		perMinute, err := deliver.AllowedRate(r.Header)
		if err != nil {
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusBadRequest, Detail: "want WebHook-Allowed-Rate to be * or requests per minute"})
			return
		}
		if !slices.ContainsFunc(subs(), func(s *pump.Subscription) bool { return s.Consent(secret, deliver.Consent{PerMinute: perMinute}) }) {
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusNotFound, Detail: "this is no address that the bridge gave to a sink since it was started"})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}
