package admin

import (
	"cmp"
	"context"
	"net/http"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/token"
)

// PauseRequest is the body of POST /subscriptions/{name}/pause and .../resume. It
// may be left out.
type PauseRequest struct {
	Reason string `json:"reason"`
	By     string `json:"by"` // the owner of the token, or operator, when empty
}

// pauses adds the routes that hold a subscription back and let it go on. They
// answer when that is stored for all replicas, with the state that follows.
func (c Config) pauses(mux *http.ServeMux, subs func() []*pump.Subscription) {
	mux.HandleFunc("POST /subscriptions/{name}/pause", c.pause(subs, "paused by an operator", (*pump.Subscription).Pause))
	mux.HandleFunc("POST /subscriptions/{name}/resume", c.pause(subs, "resumed by an operator", (*pump.Subscription).Resume))
}

func (c Config) pause(subs func() []*pump.Subscription, reason string, set func(s *pump.Subscription, ctx context.Context, reason, by string) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := PauseRequest{}
		if r.ContentLength != 0 && !decode(w, r, &in) {
			return
		}
		in.Reason, in.By = cmp.Or(in.Reason, reason), cmp.Or(in.By, c.owner(r), "operator")
		if !worded(w, "reason", in.Reason) || !worded(w, "by", in.By) {
			return
		}
		named(subs, func(w http.ResponseWriter, s *pump.Subscription) {
			if err := set(s, r.Context(), in.Reason, who(r, in.By)); err != nil {
				fail(w, err)
				return
			}
			write(w, s.View(r.Context()))
		})(w, r)
	}
}

// owner is the name that belongs to the request's token, "" without one.
func (c Config) owner(r *http.Request) string {
	if c.Token == nil {
		return ""
	}
	name, _ := c.Token.Name(token.FromHeader(r.Header))
	return name
}
