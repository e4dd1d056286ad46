package registry_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/taskwire/taskwire/internal/registry"
)

// confluent answers as Confluent's registry does when schemas are deleted: softly, which
// hides a version and keeps its id, or for good. It has one subject, s-value.
type confluent struct {
	mu       sync.Mutex
	texts    map[int]string // by id
	last     int            // id; none is given again
	versions []version
	level    string
	once     int // the code of the first look-up
}

type version struct {
	id            int
	deleted, gone bool
}

func newConfluent(t *testing.T) (c *confluent, url string) {
	t.Helper()
	c = &confluent{texts: map[int]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /config/s-value", c.getLevel)
	mux.HandleFunc("PUT /config/s-value", c.setLevel)
	mux.HandleFunc("POST /subjects/s-value", c.look)
	mux.HandleFunc("POST /subjects/s-value/versions", c.register)
	mux.HandleFunc("GET /schemas/ids/{id}", c.byID)
	mux.HandleFunc("GET /subjects/s-value/versions/{version}", c.byVersion)
	mux.HandleFunc("DELETE /subjects/s-value", c.deleteSubject)
	mux.HandleFunc("DELETE /subjects/s-value/versions/{version}", c.deleteVersion)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return c, server.URL
}

func refuse(w http.ResponseWriter, code int) {
	w.WriteHeader(http.StatusNotFound)
	_, _ = fmt.Fprintf(w, `{"error_code": %d, "message": "not found, or deleted"}`, code)
}

func answer(w http.ResponseWriter, body any) { _ = json.NewEncoder(w).Encode(body) }

func (c *confluent) getLevel(w http.ResponseWriter, _ *http.Request) {
	if c.level == "" {
		refuse(w, 40408)
		return
	}
	answer(w, map[string]string{"compatibilityLevel": c.level})
}

func (c *confluent) setLevel(w http.ResponseWriter, r *http.Request) {
	var body struct{ Compatibility string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	c.level = body.Compatibility
	answer(w, body)
}

// active is the number of the version with a text, 0 for none; some reports whether
// there is one at all.
func (c *confluent) active(text string) (number int, some bool) {
	for i, v := range c.versions {
		if v.deleted {
			continue
		}
		some = true
		if c.texts[v.id] == text {
			number = i + 1
		}
	}
	return number, some
}

func posted(r *http.Request) string {
	var body struct{ Schema string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	return body.Schema
}

func (c *confluent) look(w http.ResponseWriter, r *http.Request) {
	text, once := posted(r), c.once
	c.once = 0
	switch number, some := c.active(text); {
	case once != 0:
		refuse(w, once)
	case !some:
		refuse(w, 40401)
	case number == 0:
		refuse(w, 40403)
	default:
		answer(w, map[string]any{"subject": "s-value", "version": number, "id": c.versions[number-1].id, "schema": text})
	}
}

func (c *confluent) register(w http.ResponseWriter, r *http.Request) {
	text := posted(r)
	number, _ := c.active(text)
	if number == 0 {
		id := 0
		for known, t := range c.texts {
			if t == text {
				id = known
			}
		}
		if id == 0 {
			c.last++
			id = c.last
			c.texts[id] = text
		}
		c.versions = append(c.versions, version{id: id})
		number = len(c.versions)
	}
	answer(w, map[string]int{"id": c.versions[number-1].id})
}

func (c *confluent) byID(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	text, ok := c.texts[id]
	if !ok {
		refuse(w, 40403)
		return
	}
	answer(w, map[string]string{"schema": text})
}

func (c *confluent) byVersion(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.Atoi(r.PathValue("version"))
	hidden := func(v version) bool { return v.gone || v.deleted && r.URL.Query().Get("deleted") != "true" }
	switch {
	case !slices.ContainsFunc(c.versions, func(v version) bool { return !hidden(v) }):
		refuse(w, 40401)
	case number < 1 || number > len(c.versions) || hidden(c.versions[number-1]):
		refuse(w, 40402)
	default:
		id := c.versions[number-1].id
		answer(w, map[string]any{"subject": "s-value", "version": number, "id": id, "schema": c.texts[id]})
	}
}

func (c *confluent) deleteSubject(w http.ResponseWriter, r *http.Request) {
	_, some := c.active("")
	if c.delete(w, r, some, 40404, 40405, func(int) bool { return true }) {
		c.level = ""
	}
}

func (c *confluent) deleteVersion(w http.ResponseWriter, r *http.Request) {
	number, _ := strconv.Atoi(r.PathValue("version"))
	c.delete(w, r, !c.versions[number-1].deleted, 40406, 40407, func(n int) bool { return n == number })
}

// delete takes two steps: for good only what was deleted softly, and softly only once.
func (c *confluent) delete(w http.ResponseWriter, r *http.Request, there bool, again, early int, which func(number int) bool) (ok bool) {
	permanent := r.URL.Query().Get("permanent") == "true"
	if there == permanent {
		code := again
		if permanent {
			code = early
		}
		refuse(w, code)
		return false
	}
	for i := range c.versions {
		if v := &c.versions[i]; which(i + 1) {
			v.deleted, v.gone = true, permanent
			if permanent {
				delete(c.texts, v.id)
			}
		}
	}
	answer(w, []int{1})
	return true
}

func deletes(t *testing.T, url, path string) (status, code int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		Code int `json:"error_code"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&body) // a list when it was deleted
	return resp.StatusCode, body.Code
}

// A schema that was deleted softly is lost to nobody: its id stays good for who writes
// and who reads it, and a start registers it again, under the same id.
func TestASchemaThatWasDeletedSoftly(t *testing.T) {
	for path, codes := range map[string][2]int{"/subjects/s-value": {40404, 40405}, "/subjects/s-value/versions/1": {40406, 40407}} {
		t.Run(path, func(t *testing.T) {
			_, url := newConfluent(t)
			c := client(t, registry.Config{URL: url})
			r, err := c.Register(t.Context(), "s-value", first)
			if err != nil {
				t.Fatal(err)
			}
			if _, code := deletes(t, url, path+"?permanent=true"); code != codes[1] {
				t.Errorf("the stand-in deletes for good what is there: code %d, want %d", code, codes[1])
			}
			if status, _ := deletes(t, url, path); status != http.StatusOK {
				t.Fatalf("DELETE = %d", status)
			}
			if _, code := deletes(t, url, path); code != codes[0] {
				t.Errorf("the stand-in deletes twice: code %d, want %d", code, codes[0])
			}
			if has, err := c.Has(t.Context(), r); !has || err != nil {
				t.Errorf("Has = %v, %v; want the id to be good still", has, err)
			}
			for id, want := range map[int]string{r.ID: "its id", 99: "its version, of an id that is denied"} {
				if schema, err := ask(schemasOf(t, url), id, r.DataSchema, time.Minute); err != nil || schema.Fingerprint != r.Fingerprint {
					t.Errorf("a reader does not find %s: %v", want, err)
				}
			}
			again, err := c.Register(t.Context(), "s-value", first)
			if err != nil || again.ID != r.ID || again.Version != 2 {
				t.Errorf("Register = %+v, %v; want version 2 of the id %d", again, err, r.ID)
			}
		})
	}
}

// One that was deleted for good is registered again under another id.
func TestASchemaThatWasDeletedForGood(t *testing.T) {
	stand, url := newConfluent(t)
	c := client(t, registry.Config{URL: url})
	r, err := c.Register(t.Context(), "s-value", first)
	if err != nil {
		t.Fatal(err)
	}
	deletes(t, url, "/subjects/s-value")
	deletes(t, url, "/subjects/s-value?permanent=true")
	if has, err := c.Has(t.Context(), r); has || err != nil {
		t.Errorf("Has = %v, %v; want false", has, err)
	}
	if _, err := ask(schemasOf(t, url), r.ID, r.DataSchema, time.Minute); !errors.As(err, new(*registry.UnknownError)) {
		t.Errorf("a reader: %v, want it unknown", err)
	}
	again, err := c.Register(t.Context(), "s-value", first)
	if err != nil || again.ID == r.ID {
		t.Errorf("Register = %+v, %v; want another id than %d", again, err, r.ID)
	}
	stand.mu.Lock()
	defer stand.mu.Unlock()
	if stand.level != "BACKWARD" {
		t.Errorf("the level is %q, want it set again", stand.level)
	}
}

// A registry that says to a look-up, too, that something was deleted softly.
func TestALookUpOfWhatWasDeleted(t *testing.T) {
	for _, code := range []int{40401, 40402, 40403, 40404, 40406} {
		stand, url := newConfluent(t)
		stand.once = code
		if r, err := client(t, registry.Config{URL: url}).Register(t.Context(), "s-value", first); err != nil || r.Version != 1 {
			t.Errorf("after %d: Register = %+v, %v; want it registered", code, r, err)
		}
	}
}
