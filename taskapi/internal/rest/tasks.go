package rest

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// Task is a task on the wire.
type Task struct {
	ID        string    `json:"id" format:"uuid" doc:"UUIDv7, made by the API"`
	Title     string    `json:"title" minLength:"1" maxLength:"500"`
	Status    string    `json:"status" enum:"pending,in_progress,completed"`
	OwnerID   *string   `json:"owner_id" format:"uuid" nullable:"true"`
	Version   int64     `json:"version" minimum:"1" doc:"1 when created, one more with each change"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

func wire(t task.Task) Task {
	w := Task{ID: t.ID, Title: t.Title, Status: string(t.Status), Version: t.Version, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt}
	if t.OwnerID != "" {
		w.OwnerID = &t.OwnerID
	}
	return w
}

func etag(t task.Task) string { return `"` + strconv.FormatInt(t.Version, 10) + `"` }

// TaskList is one page of tasks.
type TaskList struct {
	Tasks      []Task  `json:"tasks" nullable:"false"`
	NextCursor *string `json:"next_cursor" nullable:"true" doc:"cursor of the next page, null after the last"`
}

type (
	none struct{}
	byID struct {
		ID string `path:"id" doc:"id of the task"`
	}
	created struct {
		Location string `header:"Location" doc:"path of the new task"`
		ETag     string `header:"ETag" doc:"version of the task, for If-Match"`
		Body     Task
	}
	found struct {
		ETag string `header:"ETag" doc:"version of the task, for If-Match"`
		Body Task
	}
	listed struct{ Body TaskList }
)

func (a *API) create(ctx context.Context, _ *none) (*created, error) {
	c := callFrom(ctx)
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	var name, ownerID *string
	if p := decode(body, title(&name), owner(&ownerID)); p != nil {
		return nil, p
	}
	if name == nil {
		return nil, invalid(httpd.ProblemItem{Pointer: "#/title", Detail: "is required"})
	}
	once, err := c.once(body)
	if err != nil {
		return nil, err
	}
	request := task.Create{Title: *name, Origin: c.origin, Once: once}
	if ownerID != nil {
		request.OwnerID = *ownerID
	}
	answer, err := a.store.Create(ctx, request)
	if err != nil {
		return nil, a.refusal(ctx, err)
	}
	return &created{Location: "/tasks/" + answer.Task.ID, ETag: etag(answer.Task), Body: wire(answer.Task)}, nil
}

func (a *API) get(ctx context.Context, in *byID) (*found, error) {
	t, err := a.store.Get(ctx, in.ID)
	if err != nil {
		return nil, a.refusal(ctx, err)
	}
	if callFrom(ctx).unchanged(etag(t)) {
		return nil, refuse(http.StatusNotModified, "").with("ETag", etag(t))
	}
	return &found{ETag: etag(t), Body: wire(t)}, nil
}

func (a *API) update(ctx context.Context, in *byID) (*found, error) {
	c := callFrom(ctx)
	body, err := c.body()
	if err != nil {
		return nil, err
	}
	var patch task.Patch
	if p := decode(body, title(&patch.Title), status(&patch.Status), owner(&patch.OwnerID)); p != nil {
		return nil, p
	}
	return a.change(ctx, in.ID, patch, body)
}

// complete takes no body; one that is sent all the same must be an object
// without members, so that nobody believes to have said something.
func (a *API) complete(ctx context.Context, in *byID) (*found, error) {
	body, err := callFrom(ctx).body()
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		if p := decode(body); p != nil {
			return nil, p
		}
	}
	return a.change(ctx, in.ID, task.Complete(), body)
}

func (a *API) change(ctx context.Context, id string, patch task.Patch, body []byte) (*found, error) {
	c := callFrom(ctx)
	match, err := c.match()
	if err != nil {
		return nil, err
	}
	once, err := c.once(body)
	if err != nil {
		return nil, err
	}
	answer, err := a.store.Update(ctx, task.Update{ID: id, Patch: patch, Match: match, Origin: c.origin, Once: once})
	if err != nil {
		return nil, a.refusal(ctx, err)
	}
	return &found{ETag: etag(answer.Task), Body: wire(answer.Task)}, nil
}

const (
	defaultLimit = 100
	maxLimit     = 1000
)

func (a *API) list(ctx context.Context, _ *none) (*listed, error) {
	filter, err := parseFilter(callFrom(ctx).r.URL)
	if err != nil {
		return nil, err
	}
	page, err := a.store.List(ctx, filter)
	if err != nil {
		return nil, a.refusal(ctx, err)
	}
	out := TaskList{Tasks: make([]Task, len(page.Tasks))}
	for i, t := range page.Tasks {
		out.Tasks[i] = wire(t)
	}
	if page.More {
		out.NextCursor = new(base64.RawURLEncoding.EncodeToString([]byte(page.Tasks[len(page.Tasks)-1].ID)))
	}
	return &listed{Body: out}, nil
}

// parseFilter reads the query. A parameter that is empty counts as absent.
func parseFilter(u *url.URL) (f task.Filter, err error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return f, refuse(http.StatusBadRequest, "The query is not well-formed.")
	}
	f.Limit = defaultLimit
	if s := query.Get("status"); s != "" {
		if f.Status, err = task.ParseStatus(s); err != nil {
			return f, badQuery("status", err.Error())
		}
	}
	if s := query.Get("owner_id"); s != "" {
		if f.OwnerID, err = task.ParseUUID(s); err != nil {
			return f, badQuery("owner_id", err.Error())
		}
	}
	if s := query.Get("limit"); s != "" {
		if f.Limit, err = strconv.Atoi(s); err != nil || f.Limit < 1 || f.Limit > maxLimit {
			return f, badQuery("limit", "must be a whole number from 1 to 1000")
		}
	}
	if s := query.Get("cursor"); s != "" {
		id, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			return f, badQuery("cursor", "must be a next_cursor of this list")
		}
		if f.After, err = task.ParseUUID(string(id)); err != nil {
			return f, badQuery("cursor", "must be a next_cursor of this list")
		}
	}
	return f, nil
}

func badQuery(name, detail string) *refusal {
	return refuse(http.StatusUnprocessableEntity, "The query parameter "+name+" "+detail+".")
}
