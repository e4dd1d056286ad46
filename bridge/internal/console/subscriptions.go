package console

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/pump"
)

func (c *Console) subscriptions(w http.ResponseWriter, r *http.Request) {
	c.show(w, r, http.StatusOK, "subscriptions", "Subscriptions", map[string]any{"Lanes": c.lanes(r.Context(), c.cfg.Subscriptions()), "File": c.file()})
}

func (c *Console) file() admin.File {
	if c.cfg.Admin.File == nil {
		return admin.File{}
	}
	return c.cfg.Admin.File()
}

type subscriptionData struct {
	lane
	Settings    []Setting
	Pasted      string
	Explanation *Explanation
	Wrong       string // with what was pasted
	Problem     string // of an action
	Here        map[int]bool
	Since       time.Time
	Faults      []string
}

func (c *Console) subscription(w http.ResponseWriter, r *http.Request) {
	c.showSubscription(w, r, http.StatusOK, subscriptionData{})
}

func (c *Console) showSubscription(w http.ResponseWriter, r *http.Request, status int, d subscriptionData) {
	s := c.find(r.PathValue("name"))
	if s == nil {
		c.fail(w, r, http.StatusNotFound, "There is no subscription with this name.")
		return
	}
	d.lane, d.Settings, d.Since, d.Here = c.lane(r.Context(), s), c.cfg.Settings(s.Name()), c.cfg.Journal.Since, map[int]bool{}
	for _, p := range d.Partitions {
		d.Here[p.Partition] = s.Has(p.Partition)
	}
	if c.cfg.Fault != nil {
		d.Faults = pump.Faults()
	}
	c.show(w, r, status, "subscription", d.Name, d)
}

// form reads the form of a write. It answers itself when a text is missing.
func (c *Console) form(w http.ResponseWriter, r *http.Request, texts ...string) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		c.fail(w, r, http.StatusBadRequest, "The form could not be read.")
		return false
	}
	for _, name := range texts {
		if !admin.Worded(r.PostFormValue(name)) {
			c.fail(w, r, http.StatusUnprocessableEntity, "Give a "+name+": 1 to 500 bytes of printable text on one line.")
			return false
		}
	}
	return true
}

// by is who asks: the name that the form gives, which nobody has checked, or the
// owner of the token.
func (c *Console) by(r *http.Request) string {
	name := strings.TrimSpace(r.PostFormValue("by"))
	if name == "" || !admin.Worded(name) {
		owner, _ := c.sessions.name(r)
		name = cmp.Or(owner, "operator")
	}
	return admin.Who(r, name+" (console)")
}

func (c *Console) changed() {
	c.cfg.Journal.Add(journal.Step{At: time.Now(), Kind: journal.Changed})
}

// pause holds a subscription back or lets it go on, on all replicas.
func (c *Console) pause(w http.ResponseWriter, r *http.Request) {
	resume := strings.HasSuffix(r.URL.Path, "/resume")
	texts := []string{"reason"}
	if resume {
		texts = nil
	}
	if !c.form(w, r, texts...) {
		return
	}
	s := c.find(r.PathValue("name"))
	if s == nil {
		c.fail(w, r, http.StatusNotFound, "There is no subscription with this name.")
		return
	}
	var err error
	if resume {
		err = s.Resume(r.Context(), "resumed in the console", c.by(r))
	} else {
		err = s.Pause(r.Context(), r.PostFormValue("reason"), c.by(r))
	}
	c.changed()
	if err != nil {
		c.showSubscription(w, r, http.StatusServiceUnavailable, subscriptionData{Problem: sentence(err)})
		return
	}
	http.Redirect(w, r, c.cfg.Base+"/console/subscriptions/"+esc(s.Name()), http.StatusSeeOther)
}

// explain says which filter of a subscription decides about an event that was pasted.
func (c *Console) explain(w http.ResponseWriter, r *http.Request) {
	if !c.form(w, r) {
		return
	}
	d := subscriptionData{Pasted: r.PostFormValue("event")}
	x, err := c.cfg.Explain(r.PathValue("name"), []byte(d.Pasted))
	if err != nil {
		d.Wrong = sentence(err)
		c.showSubscription(w, r, http.StatusUnprocessableEntity, d)
		return
	}
	d.Explanation = &x
	c.showSubscription(w, r, http.StatusOK, d)
}

// fault breaks the sink of a subscription for a while, or mends it; in go run ./dev only.
func (c *Console) fault(w http.ResponseWriter, r *http.Request) {
	if !c.form(w, r) {
		return
	}
	s, how := c.find(r.PathValue("name")), r.PostFormValue("how")
	if c.cfg.Fault == nil || s == nil || how != "" && !slices.Contains(pump.Faults(), how) {
		c.fail(w, r, http.StatusNotFound, "Sinks can be broken in go run ./dev only.")
		return
	}
	d, err := time.ParseDuration(cmp.Or(r.PostFormValue("for"), "0s"))
	if err != nil || d < 0 || d > 10*time.Minute {
		c.fail(w, r, http.StatusUnprocessableEntity, "Break it for at most ten minutes.")
		return
	}
	if how == "" {
		d = 0
	}
	c.cfg.Fault.Set(s.Name(), how, d)
	c.cfg.Log.Warn("sink broken for a trial", "subscription", s.Name(), "fault", how, "for", d.String(), "by", c.by(r))
	c.changed()
	http.Redirect(w, r, c.back(r, "back"), http.StatusSeeOther)
}

var errNone = errors.New("there is no subscription with this name")
