package app

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"time"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
)

const maxHistory = 10_000

// The answer of GET /tasks/{id}/history is
//
//	{"task_id":..., "versions":[...], "irregular":n, "truncated":bool}
//
// where irregular counts the versions with a flag, and truncated means that there
// are more than 10,000. version is an item of versions without its data.
type version struct {
	Seq        int64     `json:"seq"`
	Version    int64     `json:"version,omitempty"`
	Flag       string    `json:"flag,omitempty"` // "gap": versions before this one are missing; "step_back": a higher one came before
	EventID    string    `json:"event_id"`
	EventType  string    `json:"event_type"`
	Source     string    `json:"source"`
	Actor      any       `json:"actor,omitempty"`
	OccurredAt string    `json:"occurred_at,omitempty"`
	AuditedAt  time.Time `json:"audited_at"`
}

// past is what has been read of a history.
type past struct {
	last      map[uint64]int64 // highest version, by hash of the source: each numbers its own
	seed      maphash.Seed
	irregular int
}

func (s *Service) history(w http.ResponseWriter, r *http.Request) {
	task := r.PathValue("id")
	p := &past{last: map[uint64]int64{}, seed: maphash.MakeSeed()}
	versions := &walk{filter: ledger.Filter{TaskID: task}, left: maxHistory, room: 1 << 62}
	items, err := s.step(r.Context(), versions, p.item)
	if err != nil {
		s.queryFailed(w, r, err)
		return
	}
	if len(items) == 0 {
		notFound(w)
		return
	}
	s.answers.Stream(w, r, func(ctx context.Context, out *bufio.Writer) error {
		name, err := json.Marshal(task)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, `{"task_id":%s,"versions":[`, name)
		if err := s.write(ctx, out, versions, items, p.item); err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, `],"irregular":%d,"truncated":%t}`+"\n", p.irregular, versions.cut)
		return err
	})
}

func (p *past) item(at ledger.Place, line []byte) (item, error) {
	e, from, to, err := ledger.ParseHead(line)
	if err != nil {
		return item{}, err
	}
	v := version{Seq: e.Seq, EventID: e.ID, EventType: e.Type, Source: e.Source, Actor: e.Attribute("actor"), OccurredAt: e.Time, AuditedAt: e.AuditedAt}
	if n, ok := e.TaskVersion(); ok {
		v.Version, v.Flag = n, p.flag(e.Source, n)
	}
	if v.Flag != "" {
		p.irregular++
	}
	head, err := json.Marshal(v)
	if err != nil || from == to {
		return item{held: head}, err
	}
	head = append(head[:len(head)-1], `,"data":`...)
	if to-from <= textHeld {
		return item{held: append(head, line[from:to]...), end: "}"}, nil
	}
	return item{held: head, rest: ledger.Place{Seq: at.Seq, Offset: at.Offset + int64(from), Length: int64(to - from)}, end: "}"}, nil
}

func (p *past) flag(source string, version int64) string {
	key := maphash.String(p.seed, source)
	was := p.last[key]
	p.last[key] = max(was, version)
	switch {
	case version <= was:
		return "step_back"
	case version > was+1:
		return "gap"
	}
	return ""
}
