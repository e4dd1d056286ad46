package httpd

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Hosts are the names by which a service may be called, beside localhost and any
// address. A page whose own name was made to resolve to this machine (DNS
// rebinding) reads and writes here as if it were ours; its name in Host gives it
// away, and no page can claim an address as its name without being served from it.
type Hosts []string

// Guard refuses requests for other hosts with 403; detail tells what to do.
func (h Hosts) Guard(next http.Handler, detail string) http.Handler {
	return guardHost(h.accept, next, detail)
}

func (h Hosts) accept(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost" || slices.ContainsFunc(h, func(name string) bool { return strings.EqualFold(name, host) })
}

// IsLoopback reports whether only this machine can reach a listener at addr.
func IsLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// loopbackHost is the rule of a listener that only this machine can reach.
func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.Unmap().IsLoopback())
}

// guardLoopback applies to a listener on loopback; the others are called by names
// that this program cannot know. also are names that are taken there all the same.
func guardLoopback(l net.Listener, also Hosts, next http.Handler) http.Handler {
	if !IsLoopback(l.Addr()) {
		return next
	}
	accept := loopbackHost
	if also != nil {
		accept = also.accept
	}
	return guardHost(accept, next, "this port is for programs of this machine; call it localhost or by a loopback address such as 127.0.0.1")
}

func guardHost(accept func(host string) bool, next http.Handler, detail string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !accept(hostname(r.Host)) {
			WriteProblem(w, Problem{Status: http.StatusForbidden, Detail: detail})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostname is the value of a Host header in lower case, without its port and
// without the brackets of an IPv6 address.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	return strings.ToLower(host)
}
