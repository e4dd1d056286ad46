package rest

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/taskwire/taskwire/taskapi/internal/task"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// parameter reads the value of one query parameter. Its error says what the
// value must be and never what it was.
type parameter func(value string) error

// readQuery reads the whole query. A parameter that is unknown, empty or given
// twice is refused: taken as absent, it would widen a list unnoticed.
func readQuery(u *url.URL, known map[string]parameter) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, "The query is not well-formed.")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		read, ok := known[name]
		switch values := query[name]; {
		case !ok && len(known) == 0:
			return badQuery(name, "is unknown; this call takes none")
		case !ok:
			return badQuery(name, "is unknown; known are "+strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		case len(values) > 1:
			return badQuery(name, "is given more than once")
		case values[0] == "":
			return badQuery(name, "is empty; leave it out to mean nothing by it")
		default:
			if err := read(values[0]); err != nil {
				return badQuery(name, err.Error())
			}
		}
	}
	return nil
}

// withoutQuery is h for calls that take no parameter.
func withoutQuery(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := readQuery(r.URL, nil); err != nil {
			return err
		}
		return h(w, r)
	}
}

func parseFilter(u *url.URL) (task.Filter, error) {
	f := task.Filter{Limit: defaultLimit}
	err := readQuery(u, map[string]parameter{
		"status": func(value string) (err error) {
			f.Status, err = task.ParseStatus(value)
			return err
		},
		"owner_id": func(value string) (err error) {
			f.OwnerID, err = task.ParseUUID(value)
			return err
		},
		"limit": func(value string) (err error) {
			f.Limit, err = parseLimit(value)
			return err
		},
		"cursor": func(value string) (err error) {
			f.After, err = parseCursor(value)
			return err
		},
	})
	return f, err
}

func parseLimit(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > maxLimit || strconv.Itoa(n) != value {
		return 0, errors.New("must be a whole number from 1 to 1000")
	}
	return n, nil
}

// parseCursor reads the id of the last task of the page before.
func parseCursor(value string) (string, error) {
	id, err := task.ParseUUID(value)
	if err != nil {
		return "", errors.New("must be a next_cursor of this list")
	}
	return id, nil
}

func badQuery(name, detail string) error {
	return refuse(http.StatusUnprocessableEntity, "The query parameter "+url.QueryEscape(shorten(name))+" "+detail+".")
}
