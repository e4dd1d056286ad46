package console

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/taskwire/taskwire/internal/token"
)

const (
	sessionCookie = "taskwire_session"
	sessionTime   = 12 * time.Hour
	maxSessions   = 200
	themeCookie   = "taskwire_theme"
	maxForm       = 2 << 20
)

// sessions are those who have signed in with a token. They live in this process. A
// session keeps its token and asks about it at each request, so that a token that is
// revoked ends its sessions, too. Ids are kept as digests, as tokens are.
type sessions struct {
	tokens *token.List // nil: nobody has to sign in

	mu    sync.Mutex
	known map[[sha256.Size]byte]session
}

type session struct {
	token   string
	expires time.Time
}

func newSessions(tokens *token.List) *sessions {
	return &sessions{tokens: tokens, known: map[[sha256.Size]byte]session{}}
}

func (s *sessions) good(r *http.Request) bool {
	_, ok := s.name(r)
	return ok
}

// name is the owner of the token that the session began with.
func (s *sessions) name(r *http.Request) (string, bool) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil || s.tokens == nil {
		return "", false
	}
	s.mu.Lock()
	one, ok := s.known[sha256.Sum256([]byte(cookie.Value))]
	s.mu.Unlock()
	if !ok || time.Now().After(one.expires) {
		return "", false
	}
	return s.tokens.Name(one.token)
}

// begin returns the id of a new session. The one that ends first makes room.
func (s *sessions) begin(token string) string {
	id := rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.known) >= maxSessions {
		var first [sha256.Size]byte
		var at time.Time
		for key, one := range s.known {
			if at.IsZero() || one.expires.Before(at) {
				first, at = key, one.expires
			}
		}
		delete(s.known, first)
	}
	s.known[sha256.Sum256([]byte(id))] = session{token, time.Now().Add(sessionTime)}
	return id
}

func (s *sessions) end(r *http.Request) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, sha256.Sum256([]byte(cookie.Value)))
}

func (c *Console) cookie(r *http.Request, name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: c.cfg.Base + "/", MaxAge: maxAge, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https", // whoever forges that locks themselves out only
	}
}

// refuse leads a browser to the form, and tells anything else that it needs the token.
func (c *Console) refuse(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html") {
		http.Redirect(w, r, c.cfg.Base+"/console/sign-in?next="+url.QueryEscape(c.cfg.Base+r.URL.RequestURI()), http.StatusSeeOther)
		return
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="bridge"`)
	c.fail(w, r, http.StatusUnauthorized, "Sign in first: the console asks for the token of ADMIN_TOKEN_FILE.")
}

type signInData struct {
	Next  string
	Wrong bool
}

func (c *Console) signInPage(w http.ResponseWriter, r *http.Request) {
	if c.cfg.Admin.Token == nil {
		http.Redirect(w, r, c.cfg.Base+"/", http.StatusSeeOther)
		return
	}
	c.show(w, r, http.StatusOK, "sign-in", "Sign in", signInData{Next: r.URL.Query().Get("next")})
}

func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	given := strings.TrimSpace(r.PostFormValue("token"))
	if c.cfg.Admin.Token == nil {
		http.Redirect(w, r, c.cfg.Base+"/", http.StatusSeeOther)
		return
	}
	if _, known := c.cfg.Admin.Token.Name(given); !known {
		c.cfg.Admin.Refusals.Add(w, r, token.Failed(http.Header{"Authorization": {"Bearer " + given}}))
		c.show(w, r, http.StatusUnauthorized, "sign-in", "Sign in", signInData{Next: r.PostFormValue("next"), Wrong: true})
		return
	}
	http.SetCookie(w, c.cookie(r, sessionCookie, c.sessions.begin(given), int(sessionTime/time.Second)))
	http.Redirect(w, r, c.back(r, "next"), http.StatusSeeOther)
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request) {
	c.sessions.end(r)
	http.SetCookie(w, c.cookie(r, sessionCookie, "", -1))
	http.Redirect(w, r, c.cfg.Base+"/", http.StatusSeeOther)
}

func theme(r *http.Request) string {
	if cookie, err := r.Cookie(themeCookie); err == nil && (cookie.Value == "light" || cookie.Value == "dark") {
		return cookie.Value
	}
	return "auto"
}

func (c *Console) setTheme(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	wanted := r.PostFormValue("theme")
	if wanted != "light" && wanted != "dark" {
		wanted = "auto"
	}
	http.SetCookie(w, c.cookie(r, themeCookie, wanted, 365*24*3600))
	http.Redirect(w, r, c.back(r, "back"), http.StatusSeeOther)
}
