package app

import (
	"errors"
	"log/slog"
	"net/http"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/sink"
	"github.com/taskwire/taskwire/internal/token"
)

const readTokensFile = "AUDIT_READ_TOKENS_FILE"

// readers are those who may read the log.
type readers struct {
	tokens   *token.List // nil: everybody
	refusals *token.Refusals
}

func newReaders(path string, server *httpd.Server, guard *sink.Guard, log *slog.Logger) (*readers, error) {
	r := &readers{refusals: guard.Refusals()}
	if path == "" {
		return r, nil
	}
	var err error
	if r.tokens, err = token.Open(path, log); err != nil {
		return nil, errors.New(readTokensFile + ": " + err.Error())
	}
	server.Ready(httpd.Check{Name: readTokensFile, Func: r.tokens.Err})
	return r, nil
}

// only passes requests with a known token on.
func (g *readers) only(next http.HandlerFunc) http.Handler {
	if g.tokens == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, known := g.tokens.Name(token.FromHeader(r.Header)); known {
			next(w, r)
			return
		}
		g.refusals.Add(w, r, token.Failed(r.Header))
		w.Header().Set("WWW-Authenticate", `Bearer realm="audit log"`)
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnauthorized, Detail: "reading the log needs the header Authorization: Bearer TOKEN with a known token"})
	})
}
