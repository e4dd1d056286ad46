package admin

import (
	"net"
	"net/http"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/token"
)

// guard stands before every route, so that a new one cannot be open by mistake.
func (c Config) guard(next http.Handler) http.Handler {
	return c.FromHere(c.Authorized(next, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="bridge"`)
		refuse(http.StatusUnauthorized, "want Authorization: Bearer TOKEN, with the token of ADMIN_TOKEN_FILE")(w, r)
	}))
}

// FromHere refuses what a page of another site could make an operator's browser
// send, whose token, session or machine would then be accepted.
func (c Config) FromHere(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(refuse(http.StatusForbidden, "a page of another site may not control the bridge"))
	return c.Hosts.Guard(origin.Handler(ownReads(next)), "call the bridge by an address, as localhost, or by a name that ADMIN_HOSTS lists")
}

// ownReads refuses reads for pages of other sites. They could not see the answer, but
// they could hold streams open, have topics and the audit log searched, and learn from
// the time that takes. A link leads here all the same: that opens a page of its own.
func ownReads(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		link := r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
		if (site == "cross-site" || site == "same-site") && isRead(r) && !link {
			refuse(http.StatusForbidden, "a page of another site may only link to the bridge")(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Authorized passes on what the caller may do: with a token everything, without
// ADMIN_TOKEN_FILE reads, and writes from this machine. refused answers a request
// that has no good token.
func (c Config) Authorized(next http.Handler, refused http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case c.Token != nil && !c.allows(r):
			if failed := token.Failed(r.Header); c.Session == nil || token.FromHeader(r.Header) != "" {
				c.Refusals.Add(w, r, failed)
			}
			refused(w, r)
		case c.Token == nil && !isRead(r) && !c.fromHere(r):
			refuse(http.StatusForbidden, "set ADMIN_TOKEN_FILE; without it this is allowed only when LISTEN_ADDR is a loopback address such as 127.0.0.1:8001")(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// Reader reports whether the caller may read.
func (c Config) Reader(r *http.Request) bool { return c.Token == nil || c.allows(r) }

// Operator reports whether the caller may do more than read.
func (c Config) Operator(r *http.Request) bool {
	return c.Token != nil && c.allows(r) || c.Token == nil && c.fromHere(r)
}

func refuse(status int, detail string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		httpd.WriteProblem(w, httpd.Problem{Status: status, Detail: detail})
	}
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// allows reports whether the request carries a good token, or a session that had one.
func (c Config) allows(r *http.Request) bool {
	if c.Session != nil && c.Session(r) {
		return true
	}
	_, known := c.Token.Name(token.FromHeader(r.Header))
	return known
}

// fromHere needs a listener on loopback: on another one a sidecar's proxy and
// kubectl port-forward deliver everybody's requests from 127.0.0.1.
func (c Config) fromHere(r *http.Request) bool {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return c.Loopback && net.ParseIP(host).IsLoopback()
}
