package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/httpd"
)

// repairTime bounds a repair. It is shorter than the server's own limit for an answer.
const repairTime = 40 * time.Second

// AcceptRequest is the body of POST /subscriptions/{name}/offsets/accept.
type AcceptRequest struct {
	Partition *int   `json:"partition,omitempty"` // nil for all that wait
	By        string `json:"by"`
}

// SkipRequest is the body of POST /subscriptions/{name}/skip.
type SkipRequest struct {
	Partition *int   `json:"partition"`
	Offset    *int64 `json:"offset"`
	Reason    string `json:"reason"`
	By        string `json:"by"`
}

// repairs adds the routes with which an operator decides what the bridge must
// not decide by itself. Each of them is logged with who asked for it: the name
// that the caller gives, which nobody has checked, and its address.
func repairs(mux *http.ServeMux, subs func() []*pump.Subscription) {
	mux.HandleFunc("POST /subscriptions/{name}/offsets/accept", func(w http.ResponseWriter, r *http.Request) {
		var in AcceptRequest
		if !decode(w, r, &in) || !worded(w, "by", in.By) {
			return
		}
		named(subs, func(w http.ResponseWriter, s *pump.Subscription) {
			ctx, cancel := context.WithTimeout(r.Context(), repairTime)
			defer cancel()
			accepted, err := s.Accept(ctx, in.Partition, who(r, in.By))
			if err != nil {
				failRepair(ctx, w, s, in.Partition, err)
				return
			}
			write(w, map[string]any{"accepted": accepted})
		})(w, r)
	})
	mux.HandleFunc("POST /subscriptions/{name}/skip", func(w http.ResponseWriter, r *http.Request) {
		var in SkipRequest
		if !decode(w, r, &in) || !worded(w, "by", in.By) || !worded(w, "reason", in.Reason) {
			return
		}
		if in.Partition == nil || in.Offset == nil {
			invalid(w, "partition and offset are required")
			return
		}
		named(subs, func(w http.ResponseWriter, s *pump.Subscription) {
			ctx, cancel := context.WithTimeout(r.Context(), repairTime)
			defer cancel()
			wish := pump.Skip{Partition: *in.Partition, Offset: *in.Offset, Reason: in.Reason, By: who(r, in.By)}
			if err := s.Skip(ctx, wish); err != nil {
				failRepair(ctx, w, s, in.Partition, err)
				return
			}
			write(w, map[string]any{"skipped": wish})
		})(w, r)
	})
}

// failRepair names the bridge to ask when this one does not have the partition.
func failRepair(ctx context.Context, w http.ResponseWriter, s *pump.Subscription, partition *int, err error) {
	var refused *pump.RefusedError
	if partition == nil || !errors.As(err, &refused) || s.Has(*partition) {
		fail(w, err)
		return
	}
	for _, p := range s.View(ctx).Partitions {
		if p.Partition == *partition && p.Owner != nil {
			httpd.WriteProblem(w, httpd.Problem{Status: http.StatusMisdirectedRequest, Detail: fmt.Sprintf(
				"partition %d belongs to the bridge %s at %s; ask that one", p.Partition, cmp.Or(p.Owner.Instance, p.Owner.Member), p.Owner.Host)})
			return
		}
	}
	fail(w, err)
}

// Who is a name that a caller gave, which nobody has checked, and its address.
func Who(r *http.Request, by string) string { return who(r, by) }

func who(r *http.Request, by string) string {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return by + " from " + host
}

// decode reads a body of JSON. It answers itself when there is none.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnsupportedMediaType, Detail: "want application/json"})
		return false
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil || !atEnd(d) {
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusBadRequest, Detail: "the body is not the JSON object of this request; the manual of the bridge shows it"})
		return false
	}
	return true
}

func atEnd(d *json.Decoder) bool {
	_, err := d.Token()
	return errors.Is(err, io.EOF)
}

// worded wants a text that fits on one line of a log and into a header.
func worded(w http.ResponseWriter, name, text string) bool {
	if !Worded(text) {
		invalid(w, name+": want 1 to 500 bytes of printable text")
		return false
	}
	return true
}

// Worded reports whether a reason or a name may be stored.
func Worded(text string) bool {
	return strings.TrimSpace(text) != "" && len(text) <= 500 && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

func invalid(w http.ResponseWriter, detail string) {
	httpd.WriteProblem(w, httpd.Problem{Status: http.StatusUnprocessableEntity, Detail: detail})
}

func fail(w http.ResponseWriter, err error) {
	var refused *pump.RefusedError
	switch {
	case errors.As(err, &refused):
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusConflict, Detail: refused.Reason})
	default: // Kafka, the sink or the time
		httpd.WriteProblem(w, httpd.Problem{Status: http.StatusServiceUnavailable, Detail: err.Error()})
	}
}
