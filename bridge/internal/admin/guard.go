package admin

import (
	"net"
	"net/http"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
)

// guard stands before every route, so that a new one cannot be open by mistake.
// First it refuses what a page of another site could make an operator's browser
// send, whose token or machine would then be accepted.
func (c Config) guard(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(refuse(http.StatusForbidden, "a page of another site may not control the bridge"))
	authorized := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case c.Token != nil && !c.allows(r):
			c.Refusals.Add(w, r, token.Failed(r.Header))
			w.Header().Set("WWW-Authenticate", `Bearer realm="bridge"`)
			refuse(http.StatusUnauthorized, "want Authorization: Bearer TOKEN, with the token of ADMIN_TOKEN_FILE")(w, r)
		case c.Token == nil && !isRead(r) && !c.fromHere(r):
			refuse(http.StatusForbidden, "set ADMIN_TOKEN_FILE; without it this is allowed only when LISTEN_ADDR is a loopback address such as 127.0.0.1:8001")(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
	return c.Hosts.Guard(origin.Handler(authorized), "call the bridge by an address, as localhost, or by a name that ADMIN_HOSTS lists")
}

func refuse(status int, detail string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{Status: status, Detail: detail})
	}
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// allows reports whether the request carries a good token.
func (c Config) allows(r *http.Request) bool {
	_, known := c.Token.Name(token.FromHeader(r.Header))
	return known
}

// fromHere needs a listener on loopback: on another one a sidecar's proxy and
// kubectl port-forward deliver everybody's requests from 127.0.0.1.
func (c Config) fromHere(r *http.Request) bool {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return c.Loopback && net.ParseIP(host).IsLoopback()
}
