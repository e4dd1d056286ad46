package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	remoteTime = 10 * time.Second
	remoteMost = 9 << 20 // bytes: the auditor's pages have at most 8 MiB
	auditRows  = 50
	searchRows = 10_000 // that are searched for what the auditor has no index of
)

// remote is another service, asked with this process's address but with nobody's
// credentials. A nil *remote is not configured.
type remote struct {
	base   string
	client *http.Client
}

func newRemote(base string) *remote {
	if base == "" {
		return nil
	}
	return &remote{base: strings.TrimSuffix(base, "/"), client: &http.Client{
		Timeout:       remoteTime,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (s *remote) close() {
	if s != nil {
		s.client.CloseIdleConnections()
	}
}

// answer is what another service said.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// do asks. It reads the answer up to a bound.
func (s *remote) do(ctx context.Context, method, path string, header http.Header, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if header != nil {
		req.Header = header
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var at *url.Error // its text repeats the address
		if errors.As(err, &at) {
			err = at.Err
		}
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, remoteMost+1))
	if err == nil && len(text) > remoteMost {
		err = errors.New("the answer is too long")
	}
	return answer{resp.StatusCode, resp.Header, text}, err
}

var errNotThere = errors.New("it is not in the audit log")

// ask reads JSON from the auditor.
func (c *Console) ask(ctx context.Context, path string, into any) error {
	a, err := c.auditor.do(ctx, http.MethodGet, path, nil, nil)
	switch {
	case err != nil:
		return fmt.Errorf("the auditor does not answer at %s (AUDITOR_URL): %w", c.auditor.base, err)
	case a.Status == http.StatusNotFound:
		return errNotThere
	case a.Status == http.StatusUnauthorized:
		return errors.New("the auditor asks for a token (AUDIT_READ_TOKENS_FILE), which the console does not have; use its own API")
	case a.Status != http.StatusOK:
		return fmt.Errorf("the auditor answered %d", a.Status)
	}
	if err := json.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("the answer of the auditor cannot be read: %w", err)
	}
	return nil
}

// entry is a line of the audit log.
type entry struct {
	Seq      int64           `json:"seq"`
	ID       string          `json:"event_id"`
	Type     string          `json:"event_type"`
	Time     string          `json:"occurred_at"`
	Data     json.RawMessage `json:"data"`
	Metadata struct {
		Correlation string `json:"correlation_id"`
		Source      string `json:"source"`
	} `json:"metadata"`
	Attributes map[string]any `json:"attributes"`
	Audited    time.Time      `json:"audited_at"`
}

// Attribute is one as text, "" without it.
func (e entry) Attribute(name string) string {
	switch v := e.Attributes[name].(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// Task is the id of its task.
func (e entry) Task() string { return e.Attribute("subject") }

type auditPage struct {
	Entries []entry `json:"entries"`
	Next    *int64  `json:"next_after"`
}

type auditData struct {
	Query, Type, Actor, Since string
	Entries                   []entry
	Size                      int64
	Older, Newer              string // values of after for the pages around
	Problem                   string
	Looked                    string // how far a search went
	Unset                     bool
}

// size is the number of entries that are signed for.
func (c *Console) size(ctx context.Context) (int64, error) {
	a, err := c.auditor.do(ctx, http.MethodGet, "/checkpoint", nil, nil)
	if err != nil {
		return 0, fmt.Errorf("the auditor does not answer at %s (AUDITOR_URL): %w", c.auditor.base, err)
	}
	if a.Status == http.StatusNotFound {
		return 0, nil // nothing is signed yet
	}
	lines := strings.SplitN(string(a.Body), "\n", 3)
	if a.Status != http.StatusOK || len(lines) < 3 {
		return 0, fmt.Errorf("the auditor answered %d for its checkpoint", a.Status)
	}
	return strconv.ParseInt(lines[1], 10, 64)
}

func (c *Console) audit(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	d := auditData{Query: strings.TrimSpace(q.Get("q")), Type: q.Get("type"), Actor: q.Get("actor"), Since: q.Get("since")}
	if c.auditor == nil {
		d.Unset = true
		c.show(w, r, http.StatusOK, "audit", "Audit", d)
		return
	}
	if d.Query != "" {
		to, err := c.lookUp(r.Context(), d.Query, q.Get("task"), &d)
		if err == nil && to != "" {
			http.Redirect(w, r, c.cfg.Base+to, http.StatusSeeOther)
			return
		}
		if err != nil {
			d.Problem = sentence(err)
		}
	} else if err := c.browse(r.Context(), q, &d); err != nil {
		d.Problem = sentence(err)
	}
	c.show(w, r, http.StatusOK, "audit", "Audit", d)
}

var number = regexp.MustCompile(`^[0-9]{1,16}$`)

// lookUp finds what somebody typed: a number, a task, an event, or a correlation id.
// It returns where to go, or fills in several entries.
func (c *Console) lookUp(ctx context.Context, what, task string, d *auditData) (string, error) {
	if number.MatchString(what) {
		return "/console/audit/entries/" + what, nil
	}
	for _, id := range slices.Compact([]string{what, task}) {
		var h history
		err := c.ask(ctx, "/tasks/"+esc(id)+"/history", &h)
		if id == "" || errors.Is(err, errNotThere) {
			continue
		}
		if err != nil {
			return "", err
		}
		if id == what {
			return "/console/audit/tasks/" + esc(id), nil
		}
		for _, v := range h.Versions {
			if v.EventID == what {
				return "/console/audit/entries/" + strconv.FormatInt(v.Seq, 10), nil
			}
		}
	}
	size, err := c.size(ctx)
	if err != nil {
		return "", err
	}
	for to := size + 1000; to > 0 && to > size-searchRows; to -= 1000 { // some may not be signed for yet
		var p auditPage
		if err := c.ask(ctx, fmt.Sprintf("/entries?limit=1000&after=%d", max(0, to-1000)), &p); err != nil {
			return "", err
		}
		for _, e := range slices.Backward(p.Entries) {
			if e.Seq <= to && (e.ID == what || e.Metadata.Correlation == what) {
				d.Entries = append(d.Entries, e)
			}
		}
		if len(d.Entries) > 0 && d.Entries[0].ID == what {
			return "/console/audit/entries/" + strconv.FormatInt(d.Entries[0].Seq, 10), nil
		}
	}
	d.Looked = "Events and correlation ids were looked for in the newest " + count(min(size, searchRows)) + " entries; tasks and numbers in all."
	return "", nil
}

// browse shows a page of entries, the newest ones first unless after says where.
func (c *Console) browse(ctx context.Context, q url.Values, d *auditData) (err error) {
	if d.Size, err = c.size(ctx); err != nil {
		return err
	}
	filtered := d.Type != "" || d.Actor != ""
	after := max(0, d.Size-auditRows+10) // a few may not be signed for yet
	if filtered {
		after = max(0, d.Size-searchRows)
	}
	if d.Since != "" {
		if after, err = c.since(ctx, d.Since, d.Size); err != nil {
			return err
		}
	}
	if text := q.Get("after"); text != "" {
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			return errors.New("after is the number of an entry")
		}
	}
	ask := url.Values{"limit": {strconv.Itoa(auditRows)}, "after": {strconv.FormatInt(after, 10)}}
	for name, v := range map[string]string{"type": d.Type, "actor": d.Actor} {
		if v != "" {
			ask.Set(name, v)
		}
	}
	var p auditPage
	if err := c.ask(ctx, "/entries?"+ask.Encode(), &p); err != nil {
		return err
	}
	d.Entries = p.Entries
	if len(d.Entries) > 0 && after > 0 {
		d.Older = strconv.FormatInt(max(0, after-auditRows), 10)
	}
	if p.Next != nil && *p.Next < d.Size {
		d.Newer = strconv.FormatInt(*p.Next, 10)
	}
	slices.Reverse(d.Entries)
	return nil
}

// since finds the number before the first entry that is no older than a time: entries
// are in the order in which they were written.
func (c *Console) since(ctx context.Context, text string, size int64) (int64, error) {
	at, err := time.Parse(time.RFC3339, text)
	if d, err2 := time.ParseDuration(text); err2 == nil {
		at, err = time.Now().Add(-d), nil
	}
	if err != nil {
		return 0, errors.New("since is a time such as 2026-01-02T15:04:05Z or a duration such as 2h")
	}
	low, high := int64(1), size+1
	for low < high {
		middle := (low + high) / 2
		var e entry
		if err := c.ask(ctx, "/entries/"+strconv.FormatInt(middle, 10), &e); err != nil {
			return 0, err
		}
		if e.Audited.Before(at) {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low - 1, nil
}

// history is what the auditor knows of a task.
type history struct {
	Task     string    `json:"task_id"`
	Versions []version `json:"versions"`
	Odd      int       `json:"irregular"`
	Cut      bool      `json:"truncated"`
}

type version struct {
	Seq     int64           `json:"seq"`
	Version int64           `json:"version"`
	Flag    string          `json:"flag"`
	EventID string          `json:"event_id"`
	Type    string          `json:"event_type"`
	Actor   any             `json:"actor"`
	Time    string          `json:"occurred_at"`
	Audited time.Time       `json:"audited_at"`
	Data    json.RawMessage `json:"data"`

	Missing int64    `json:"-"` // versions before this one that are not there
	Changes []change `json:"-"`
}

// change is a member of the data that differs from the version before.
type change struct{ Name, Before, After string }

const (
	maxShown   = 500 // versions of a history that are shown
	maxChanges = 50  // and of each of them
)

func (c *Console) auditTask(w http.ResponseWriter, r *http.Request) {
	if c.auditor == nil {
		c.audit(w, r)
		return
	}
	var h history
	err := c.ask(r.Context(), "/tasks/"+esc(r.PathValue("id"))+"/history", &h)
	if err != nil {
		c.fail(w, r, statusOf(err), sentence(err))
		return
	}
	before, last := map[string]json.RawMessage{}, int64(0)
	for i := range h.Versions {
		v := &h.Versions[i]
		if v.Flag == "gap" {
			v.Missing = v.Version - last - 1
		}
		last = max(last, v.Version)
		now := map[string]json.RawMessage{}
		_ = json.Unmarshal(v.Data, &now) // data that is no object has no members to compare
		if !c.cfg.Admin.HidePayloads {
			v.Changes = differences(before, now)
		}
		before = now
	}
	slices.Reverse(h.Versions)
	shown := h
	shown.Versions = h.Versions[:min(len(h.Versions), maxShown)]
	c.show(w, r, http.StatusOK, "audit-task", "Audit", map[string]any{"History": shown, "All": len(h.Versions), "Hidden": c.hidden()})
}

func statusOf(err error) int {
	if errors.Is(err, errNotThere) {
		return http.StatusNotFound
	}
	return http.StatusBadGateway
}

func differences(before, now map[string]json.RawMessage) []change {
	var out []change
	for name, v := range now {
		if was, there := before[name]; there && !bytes.Equal(was, v) || !there && string(v) != "null" {
			out = append(out, change{brief(name), cut(was), cut(v)})
		}
	}
	for name, was := range before {
		if _, there := now[name]; !there {
			out = append(out, change{brief(name), cut(was), ""})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return strings.Compare(a.Name, b.Name) })
	if more := len(out) - maxChanges; more > 0 {
		out = append(out[:maxChanges], change{Name: "… and " + count(more) + " more"})
	}
	return out
}

func cut(v json.RawMessage) string {
	var text string
	if json.Unmarshal(v, &text) != nil {
		text = string(v)
	}
	if r := []rune(clean(text)); len(r) > 200 {
		return string(r[:200]) + "…"
	}
	return clean(text)
}

func (c *Console) auditEntry(w http.ResponseWriter, r *http.Request) {
	if c.auditor == nil {
		c.audit(w, r)
		return
	}
	var line json.RawMessage
	if !number.MatchString(r.PathValue("seq")) {
		c.fail(w, r, http.StatusNotFound, "Entries have numbers.")
		return
	}
	if err := c.ask(r.Context(), "/entries/"+r.PathValue("seq"), &line); err != nil {
		c.fail(w, r, statusOf(err), sentence(err))
		return
	}
	var e entry
	if err := json.Unmarshal(line, &e); err != nil {
		c.fail(w, r, http.StatusBadGateway, "The line of the audit log cannot be read.")
		return
	}
	text := long(string(line))
	c.show(w, r, http.StatusOK, "audit-entry", "Audit", map[string]any{"Entry": e, "Line": text, "Odd": text != string(line) && len(line) <= maxText, "Seq": r.PathValue("seq"), "Hidden": c.hidden()})
}

// passOn answers with what the auditor says, as plain bytes: nothing of it is ever
// taken for a page or a script.
func (c *Console) passOn(w http.ResponseWriter, r *http.Request, path string) {
	if c.auditor == nil {
		c.fail(w, r, http.StatusNotFound, "AUDITOR_URL is not set.")
		return
	}
	a, err := c.auditor.do(r.Context(), http.MethodGet, path, nil, nil)
	if err != nil {
		c.fail(w, r, http.StatusBadGateway, "The auditor does not answer.")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", "attachment")
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body)
}

func (c *Console) auditRaw(w http.ResponseWriter, r *http.Request) {
	if c.cfg.Admin.HidePayloads {
		c.fail(w, r, http.StatusForbidden, hidden)
		return
	}
	c.passNumber(w, r, "/entries/")
}

// hidden says why data is not shown, "" when it is.
func (c *Console) hidden() string {
	if c.cfg.Admin.HidePayloads {
		return hidden
	}
	return ""
}

func (c *Console) auditProof(w http.ResponseWriter, r *http.Request) { c.passNumber(w, r, "/proof/") }

func (c *Console) passNumber(w http.ResponseWriter, r *http.Request, prefix string) {
	if !number.MatchString(r.PathValue("seq")) {
		c.fail(w, r, http.StatusNotFound, "Entries have numbers.")
		return
	}
	c.passOn(w, r, prefix+r.PathValue("seq"))
}

func (c *Console) auditKey(w http.ResponseWriter, r *http.Request) { c.passOn(w, r, "/key") }

var tile = regexp.MustCompile(`^[0-9]{1,2}/(x[0-9]{3}/)*[0-9]{3}(\.p/[0-9]{1,3})?$`)

func (c *Console) auditTile(w http.ResponseWriter, r *http.Request) {
	if !tile.MatchString(r.PathValue("path")) {
		c.fail(w, r, http.StatusNotFound, "There is no such tile.")
		return
	}
	c.passOn(w, r, "/tile/"+r.PathValue("path"))
}

func esc(s string) string { return url.PathEscape(s) }
