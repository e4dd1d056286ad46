package httpd

import (
	"encoding/json"
	"net/http"
)

// Problem is an error response as defined by RFC 9457. It never contains a value
// that the caller sent.
type Problem struct {
	Type   string        `json:"type"` // about:blank, or the URI of a description
	Title  string        `json:"title"`
	Status int           `json:"status"`
	Detail string        `json:"detail,omitempty"`
	Errors []ProblemItem `json:"errors,omitempty"`
}

// ProblemItem points to one mistake in a body.
type ProblemItem struct {
	Pointer string `json:"pointer"` // JSON pointer, "#/title"
	Detail  string `json:"detail"`
}

// WriteProblem responds with p; a missing type and title are set from the status.
func WriteProblem(w http.ResponseWriter, p Problem) {
	if p.Type == "" {
		p.Type = "about:blank"
	}
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
	}
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and integers always marshal
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // a client that disconnected needs no response
}
