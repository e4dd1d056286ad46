package rest

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// appendTask adds the JSON of t to b. It is written out, because every answer is
// one, and encoding/json would cost more than the rest of the handler.
func appendTask(b []byte, t task.Task) ([]byte, error) {
	b = append(append(b, `{"id":"`...), t.ID...)
	b = append(b, `","title":`...)
	b, err := jsontext.AppendQuote(b, t.Title)
	if err != nil {
		return nil, fmt.Errorf("encode the title of task %s: %w", t.ID, err)
	}
	b = append(append(b, `,"status":"`...), t.Status...)
	if t.OwnerID == "" {
		b = append(b, `","owner_id":null`...)
	} else {
		b = append(append(append(b, `","owner_id":"`...), t.OwnerID...), '"')
	}
	b = strconv.AppendInt(append(b, `,"version":`...), t.Version, 10)
	b = t.CreatedAt.AppendFormat(append(b, `,"created_at":"`...), time.RFC3339Nano)
	b = t.UpdatedAt.AppendFormat(append(b, `","updated_at":"`...), time.RFC3339Nano)
	return append(b, `"}`...), nil
}

func (a *API) create(w http.ResponseWriter, r *http.Request) error {
	given, err := readBody(w, r)
	if err != nil {
		return err
	}
	var name, ownerID *string
	if err := decode(given, title(&name), owner(&ownerID)); err != nil {
		return err
	}
	if name == nil {
		return invalid(httpd.ProblemItem{Pointer: "#/title", Detail: "is required"})
	}
	key, err := idempotencyKey(r, given)
	if err != nil {
		return err
	}
	request := task.Create{Title: *name, Origin: origin(r.Context()), IdempotencyKey: key}
	if ownerID != nil {
		request.OwnerID = *ownerID
	}
	answer, err := a.store.Create(r.Context(), request)
	if err != nil {
		return err
	}
	w.Header()["Location"] = []string{"/tasks/" + answer.Task.ID}
	return writeTask(w, http.StatusCreated, answer.Task)
}

func (a *API) get(w http.ResponseWriter, r *http.Request) error {
	t, err := a.store.Get(r.Context(), id(r))
	if err != nil {
		return err
	}
	unchanged, err := noneMatch(r.Header, etag(t))
	if err != nil {
		return err
	}
	if unchanged {
		w.Header().Set("ETag", etag(t))
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	return writeTask(w, http.StatusOK, t)
}

func (a *API) update(w http.ResponseWriter, r *http.Request) error {
	given, err := readBody(w, r)
	if err != nil {
		return err
	}
	var patch task.Patch
	if err := decode(given, title(&patch.Title), status(&patch.Status), owner(&patch.OwnerID)); err != nil {
		return err
	}
	return a.change(w, r, patch, given)
}

// complete takes no body. One that is sent anyway must be an object without
// members, so that nobody believes its content had an effect.
func (a *API) complete(w http.ResponseWriter, r *http.Request) error {
	given, err := readBody(w, r)
	if err != nil {
		return err
	}
	if len(given) > 0 {
		if err := decode(given); err != nil {
			return err
		}
	}
	return a.change(w, r, task.Complete(), given)
}

func (a *API) change(w http.ResponseWriter, r *http.Request, patch task.Patch, given []byte) error {
	match, err := ifMatch(r.Header)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r, given)
	if err != nil {
		return err
	}
	answer, err := a.store.Update(r.Context(), task.Update{
		ID: id(r), Patch: patch, Match: match, Origin: origin(r.Context()), IdempotencyKey: key,
	})
	if err != nil {
		return err
	}
	return writeTask(w, http.StatusOK, answer.Task)
}

func (a *API) list(w http.ResponseWriter, r *http.Request) error {
	filter, err := parseFilter(r.URL)
	if err != nil {
		return err
	}
	left := filter.Limit
	filter.Limit = min(left, step)
	page, err := a.store.List(r.Context(), filter) // before the answer begins, so that an error has its status
	if err != nil {
		return err
	}
	a.answers.Stream(w, r, func(ctx context.Context, out *bufio.Writer) error {
		return a.writeList(ctx, out, filter, left, page)
	})
	return nil
}

// step is how many tasks of a list are held in memory at a time: a client that
// does not read its answer holds no more.
const step = 20

// writeList writes {"tasks": [...], "next_cursor": ...}: the page, and those after
// it until there are left tasks.
func (a *API) writeList(ctx context.Context, out *bufio.Writer, filter task.Filter, left int, page task.Page) (err error) {
	_, _ = out.WriteString(`{"tasks":[`) // Flush returns the first error
	for item := []byte(nil); ; {
		for _, t := range page.Tasks {
			if item, err = appendTask(item, t); err != nil {
				return err
			}
			_, _ = out.Write(item)
			item = append(item[:0], ',') // before the next one
		}
		if left -= len(page.Tasks); left == 0 || !page.More {
			break
		}
		filter.After, filter.Limit = page.Tasks[len(page.Tasks)-1].ID, min(left, step)
		if page, err = a.store.List(ctx, filter); err != nil {
			return err
		}
	}
	next := "null" // after the last page
	if page.More {
		next = `"` + page.Tasks[len(page.Tasks)-1].ID + `"`
	}
	_, err = out.WriteString(`],"next_cursor":` + next + "}\n")
	return err
}

// id is the task id in the path. chi routes by the escaped path, if there is one.
func id(r *http.Request) string {
	raw := chi.URLParam(r, "id")
	if id, err := url.PathUnescape(raw); err == nil {
		return id
	}
	return raw
}

func writeTask(w http.ResponseWriter, status int, t task.Task) error {
	b, err := appendTask(make([]byte, 0, 320+len(t.Title)), t)
	if err != nil {
		return err
	}
	h := w.Header()
	h["Etag"] = []string{etag(t)} // the names are canonical: Set would look
	h["Content-Type"] = jsonType
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that went away needs no answer
	return nil
}

var jsonType = []string{"application/json"} // shared, and never changed
