package httpd

import (
	"encoding/json"
	"net/http"
)

// Problem is an error answer as RFC 9457 describes it. It never repeats a
// value of the caller's.
type Problem struct {
	Type   string        `json:"type"` // about:blank unless a URI says more
	Title  string        `json:"title"`
	Status int           `json:"status"`
	Detail string        `json:"detail,omitempty"`
	Errors []ProblemItem `json:"errors,omitempty"`
}

// ProblemItem points at one wrong place of a body.
type ProblemItem struct {
	Pointer string `json:"pointer"` // JSON pointer, "#/title"
	Detail  string `json:"detail"`
}

// WriteProblem answers with p; a missing type and title follow from the status.
func WriteProblem(w http.ResponseWriter, p Problem) {
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and ints always marshal
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // a client that went away needs no answer
}
