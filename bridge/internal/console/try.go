package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/taskwire/taskwire/bridge/internal/pump"
)

// preset is an event to post to a sink.
type preset struct{ Name, Label, Expect string }

func presets() []preset {
	return []preset{
		{"valid", "Valid event", "201 or 204: the sink takes it"},
		{"duplicate", "The same event again", "200 and the same number: the sink knows it"},
		{"conflict", "Same id, other content", "409: an id is not used for two events"},
		{"malformed", "Not a CloudEvent", "400, which names the attribute"},
		{"batch", "Batch of two", "200 with one answer for each"},
		{"bad-signature", "Bad signature", "401, if the sink asks for signatures"},
	}
}

type tryData struct {
	Unset, Off  bool
	Presets     []preset
	Sinks       []string
	Title, Task string
	Token       bool
	Sink        string
	Curl        string
	Answer      *answer
	Shown       string
	Hidden      string // why the body of the answer is not shown
	Headers     []header
	Problem     string
	Follow      string // key of the events to follow
	Rows        []*row
	Lanes       []lane
	Faults      []string
}

func (c *Console) tryData(r *http.Request) tryData {
	d := tryData{Unset: c.tasks == nil, Off: c.cfg.ReadOnly, Presets: presets(), Follow: r.URL.Query().Get("follow")}
	for _, s := range c.cfg.Subscriptions() {
		d.Sinks = append(d.Sinks, s.Name())
	}
	if c.cfg.Fault != nil {
		d.Faults = pump.Faults()
	}
	d.Task = d.Follow
	return d
}

func (c *Console) try(w http.ResponseWriter, r *http.Request) { c.showTry(w, r, c.tryData(r)) }

func (c *Console) showTry(w http.ResponseWriter, r *http.Request, d tryData) {
	if d.Follow != "" {
		d.Rows = c.rows(flowFilter{Key: d.Follow})
	}
	d.Lanes = c.lanes(r.Context(), c.cfg.Subscriptions())
	c.show(w, r, http.StatusOK, "try", "Try it", d)
}

// tryIt makes a change at the Task API, or posts an event to the sink of a
// subscription, and shows the whole answer. It never signs: an event that somebody
// makes up here is no word of the bridge's.
func (c *Console) tryIt(w http.ResponseWriter, r *http.Request) {
	if !c.form(w, r) {
		return
	}
	d := c.tryData(r)
	if d.Unset {
		c.showTry(w, r, d)
		return
	}
	var err error
	if r.PostFormValue("do") == "post" {
		err = c.tryPost(r, &d)
	} else {
		err = c.tryTask(r, &d)
	}
	if err != nil {
		d.Problem = sentence(err)
	}
	if d.Answer != nil {
		if d.Hidden = c.hidden(); d.Hidden == "" {
			d.Shown = pretty(d.Answer.Body)
		}
		for _, name := range []string{"Content-Type", "Location", "Etag", "X-Correlation-Id", "Retry-After", "Allow", "Www-Authenticate"} {
			if v := d.Answer.Header.Get(name); v != "" {
				d.Headers = append(d.Headers, header{name, clean(v)})
			}
		}
	}
	c.showTry(w, r, d)
}

// tryTask creates, changes or completes a task.
func (c *Console) tryTask(r *http.Request, d *tryData) error {
	d.Title, d.Task = r.PostFormValue("title"), strings.TrimSpace(r.PostFormValue("task"))
	method, path, body := http.MethodPost, "/tasks", ""
	members := map[string]string{}
	switch r.PostFormValue("do") {
	case "create":
		members["title"] = d.Title
	case "change":
		method, path = http.MethodPatch, "/tasks/"+esc(d.Task)
		members["status"] = r.PostFormValue("status")
	case "complete":
		path = "/tasks/" + esc(d.Task) + "/complete"
	default:
		return errors.New("want create, change or complete")
	}
	if path != "/tasks" && d.Task == "" {
		return errors.New("give the id of a task, or create one first")
	}
	if len(members) > 0 {
		text, err := json.Marshal(members)
		if err != nil {
			return err
		}
		body = string(text)
	}
	h := http.Header{"Content-Type": {"application/json"}}
	d.Curl = "curl -X " + method + " " + c.tasks.base + path
	if body != "" {
		d.Curl += " -d " + shell(body)
	}
	if t := strings.TrimSpace(r.PostFormValue("token")); t != "" {
		h.Set("Authorization", "Bearer "+t)
		d.Curl += ` -H "Authorization: Bearer $TOKEN"`
	}
	a, err := c.tasks.do(r.Context(), method, path, h, []byte(body))
	if err != nil {
		return fmt.Errorf("the Task API does not answer at %s (TASKAPI_URL): %w", c.tasks.base, err)
	}
	d.Answer = &a
	var task struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(a.Body, &task) == nil && a.Status < 300 {
		d.Task, d.Follow = task.ID, task.ID
	}
	return nil
}

// tryPost posts a preset to the sink of a subscription.
func (c *Console) tryPost(r *http.Request, d *tryData) error {
	d.Sink = r.PostFormValue("sink")
	s := c.find(d.Sink)
	which := r.PostFormValue("preset")
	if s == nil || !slices.ContainsFunc(presets(), func(p preset) bool { return p.Name == which }) {
		return errNone
	}
	body, h := made(which, time.Now())
	d.Curl = "curl -X POST " + s.View(r.Context()).Sink
	for _, name := range slices.Sorted(maps.Keys(h)) {
		d.Curl += " -H " + shell(name+": "+h.Get(name))
	}
	d.Curl += " -d " + shell(body)
	status, header, answered, err := s.TryPost(r.Context(), h, []byte(body))
	if err != nil {
		return fmt.Errorf("the sink does not answer: %w", err)
	}
	d.Answer = &answer{status, header, answered}
	return nil
}

// made is a preset. Valid, duplicate and conflict share an id within a minute, so that
// they can be tried one after the other.
func made(which string, now time.Time) (body string, h http.Header) {
	h = http.Header{"Content-Type": {"application/cloudevents+json"}}
	one := func(id, title string) string {
		data, _ := json.Marshal(map[string]any{"task_id": "try-it", "title": title, "status": "pending", "owner_id": nil}) // strings always marshal
		text, _ := json.Marshal(map[string]any{"specversion": "1.0", "id": id, "source": "console", "type": "task.created", "subject": "try-it", "datacontenttype": "application/json", "data": json.RawMessage(data)})
		return string(text)
	}
	id := "try-" + strconv.FormatInt(now.Unix()/60, 10)
	switch which {
	case "conflict":
		return one(id, "Another title"), h
	case "malformed":
		return `{"specversion":"1.0","source":"console","type":"task.created"}`, h
	case "batch":
		h.Set("Content-Type", "application/cloudevents-batch+json")
		return "[" + one("try-"+uuid.NewString(), "First of a batch") + "," + one("try-"+uuid.NewString(), "Second of a batch") + "]", h
	case "bad-signature":
		h.Set("Webhook-Id", id)
		h.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
		h.Set("Webhook-Signature", "v1,bm90IGEgc2lnbmF0dXJl")
	}
	return one(id, "From the console"), h
}
