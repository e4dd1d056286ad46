package rest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// maxBody is far above the largest task and small enough to be read whole.
const maxBody = 64 << 10

// readBody reads the whole body. What curl sends with -d and no content type is
// taken as JSON; the guard has already refused forms of other sites.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if given := r.Header.Get("Content-Type"); given != "" && given != "application/json" {
		media, _, err := mime.ParseMediaType(given)
		if err != nil || (media != "application/json" && media != "application/merge-patch+json" && media != "application/x-www-form-urlencoded") {
			return nil, refuse(http.StatusUnsupportedMediaType, "The body must be application/json.").with("Accept-Post", "application/json")
		}
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, refuse(http.StatusUnsupportedMediaType, "The body must not be compressed.").with("Accept-Encoding", "identity")
	}
	body, err := readAll(w, r)
	var large *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &large):
		return nil, refuse(http.StatusRequestEntityTooLarge, "The body may have at most 65536 bytes.")
	case errors.As(err, &network) && network.Timeout():
		return nil, refuse(http.StatusRequestTimeout, "The body did not arrive in time.")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "The body could not be read to its end.")
	}
	return body, nil
}

// readAll reads a body of known length in one piece.
func readAll(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 || r.ContentLength > maxBody {
		return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	}
	body := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, body)
	return body, err
}

// member reads one member of a body. Its error says what the value must be
// and never what it was.
type member struct {
	name string
	read func(value jsontext.Value) error
}

// decode reads one JSON object with the given members, all of them optional,
// and reports every mistake at once. JSON that two readers could understand
// differently is a 400, JSON of the wrong shape a 422.
func decode(body []byte, members ...member) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return refuse(http.StatusBadRequest, "The body is empty; it must be a JSON object.")
	}
	reader := readers.Get().(*reader)
	defer readers.Put(reader)
	dec := reader.over(body)
	if dec.PeekKind() != '{' {
		if value, err := dec.ReadValue(); err != nil || len(value) == 0 {
			return malformed(err)
		}
		return invalid(httpd.ProblemItem{Pointer: "#", Detail: "must be an object"})
	}
	items, err := readObject(dec, members)
	if err != nil {
		return malformed(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "The body goes on after the JSON object.")
	}
	if len(items) > 0 {
		return invalid(items...)
	}
	return nil
}

// reader is a decoder that is used for one body after the other.
type reader struct {
	body bytes.Reader
	dec  *jsontext.Decoder // its buffer stays
}

var readers = sync.Pool{New: func() any {
	r := new(reader)
	r.dec = jsontext.NewDecoder(&r.body)
	return r
}}

func (r *reader) over(body []byte) *jsontext.Decoder {
	r.body.Reset(body)
	r.dec.Reset(&r.body)
	return r.dec
}

func readObject(dec *jsontext.Decoder, members []member) (items []httpd.ProblemItem, err error) {
	if _, err := dec.ReadToken(); err != nil {
		return nil, err
	}
	for dec.PeekKind() != '}' {
		token, err := dec.ReadToken()
		if err != nil {
			return nil, err
		}
		name := token.String()
		value, err := dec.ReadValue()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(members, func(m member) bool { return m.name == name })
		if i < 0 {
			items = append(items, httpd.ProblemItem{Pointer: pointer(name), Detail: unknown(members)})
			continue
		}
		if err := members[i].read(value); err != nil {
			items = append(items, httpd.ProblemItem{Pointer: pointer(name), Detail: err.Error()})
		}
	}
	_, err = dec.ReadToken()
	return items, err
}

func unknown(members []member) string {
	if len(members) == 0 {
		return "is unknown; this call takes no members"
	}
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.name
	}
	return "is unknown; known members are " + strings.Join(names, ", ")
}

// pointer is a JSON pointer in its URI form (RFC 6901, section 6). A long name
// is cut, so that the answer stays small.
func pointer(name string) string {
	return "#/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(shorten(name)))
}

func shorten(name string) string {
	if runes := []rune(name); len(runes) > 64 {
		return string(runes[:64]) + "…"
	}
	return name
}

// maxDepth is the JSON library's own limit; it has no name for the error.
const (
	maxDepth    = 10_000
	maxDepthErr = "exceeded max depth"
)

func malformed(err error) error {
	var syntax *jsontext.SyntacticError
	if !errors.As(err, &syntax) {
		return refuse(http.StatusBadRequest, "The body is not valid JSON: it ends too early.")
	}
	if errors.Is(syntax.Err, jsontext.ErrDuplicateName) {
		return refuse(http.StatusBadRequest, "A member of the body comes twice.",
			httpd.ProblemItem{Pointer: pointer(syntax.JSONPointer.LastToken()), Detail: "comes twice"})
	}
	if syntax.Err != nil && syntax.Err.Error() == maxDepthErr {
		return refuse(http.StatusBadRequest, fmt.Sprintf("The body is nested deeper than %d levels at byte %d.", maxDepth, syntax.ByteOffset))
	}
	return refuse(http.StatusBadRequest, fmt.Sprintf("The body is not valid JSON at byte %d.", syntax.ByteOffset))
}

// text reads a string and then what parse makes of it.
func text[T any](value jsontext.Value, parse func(string) (T, error)) (parsed T, err error) {
	if value.Kind() != '"' {
		return parsed, errors.New("must be a string")
	}
	// The decoder has checked value: without a backslash it is the string in quotes.
	if bytes.IndexByte(value, '\\') < 0 {
		return parse(string(value[1 : len(value)-1]))
	}
	s, err := jsontext.AppendUnquote(nil, value)
	if err != nil {
		return parsed, errors.New("must be a valid string")
	}
	return parse(string(s))
}

func title(into **string) member {
	return member{"title", func(value jsontext.Value) error {
		s, err := text(value, task.ParseTitle)
		*into = &s
		return err
	}}
}

func status(into **task.Status) member {
	return member{"status", func(value jsontext.Value) error {
		s, err := text(value, task.ParseStatus)
		*into = &s
		return err
	}}
}

// owner reads a uuid; null removes the owner.
func owner(into **string) member {
	return member{"owner_id", func(value jsontext.Value) error {
		if value.Kind() == 'n' {
			*into = new("")
			return nil
		}
		s, err := text(value, task.ParseUUID)
		*into = &s
		return err
	}}
}
