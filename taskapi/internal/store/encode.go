package store

import (
	"fmt"
	"strconv"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/taskapi/internal/task"
)

// encode makes the event of a change, once: every retry sends these bytes.
func encode(a task.Answer, origin task.Origin, now time.Time) ([]byte, error) {
	id := newID(now)
	if body := encodePlain(a, origin, id, now); body != nil {
		return body, nil
	}
	return encodeAny(a, origin, id, now)
}

// encodeAny has the event package make and check the event.
func encodeAny(a task.Answer, origin task.Origin, id string, now time.Time) ([]byte, error) {
	tk := a.Task
	data := event.Data{TaskID: tk.ID, Title: tk.Title, Status: string(tk.Status)}
	if tk.OwnerID != "" {
		data.OwnerID = &tk.OwnerID
	}
	e, err := event.New(event.Change{
		ID: id, Type: string(a.Kind), Time: now, TaskVersion: tk.Version,
		CorrelationID: origin.CorrelationID, Actor: origin.Actor,
		TraceParent: origin.TraceParent, TraceState: origin.TraceState, Data: data,
	})
	if err != nil {
		return nil, fmt.Errorf("make the event of task %s: %w", tk.ID, err)
	}
	body, err := event.Append(nil, e)
	if err != nil {
		return nil, fmt.Errorf("encode the event of task %s: %w", tk.ID, err)
	}
	return body, nil
}

// encodePlain writes what encodeAny would, byte for byte, at a twentieth of its
// cost, when every string stands for itself in JSON and nothing is unusual;
// else it gives nil. It matters because events are made in the one goroutine
// that all changes wait for. A test holds the two equal.
func encodePlain(a task.Answer, origin task.Origin, id string, now time.Time) []byte {
	tk := a.Task
	if tk.Version < 1 || tk.Version > 1<<31-1 || tk.ID == "" || origin.CorrelationID == "" || origin.TraceParent+origin.TraceState != "" || !now.Equal(now.Truncate(time.Microsecond)) {
		return nil
	}
	for _, s := range [...]string{tk.ID, tk.Title, tk.OwnerID, origin.CorrelationID, origin.Actor} {
		if !plain(s) {
			return nil
		}
	}
	b := make([]byte, 0, 512+len(tk.Title))
	b = append(b, `{"specversion":"1.0","id":"`...)
	b = append(b, id...)
	b = append(b, `","source":"`+event.Source+`","type":"`...)
	b = append(b, a.Kind...)
	b = append(b, `","subject":"`...)
	b = append(b, tk.ID...)
	b = append(b, `","time":"`...)
	b = now.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","datacontenttype":"application/json"`...)
	if origin.Actor != "" {
		b = append(append(append(b, `,"actor":"`...), origin.Actor...), '"')
	}
	b = append(b, `,"correlationid":"`...)
	b = append(b, origin.CorrelationID...)
	b = append(b, `","partitionkey":"`...)
	b = append(b, tk.ID...)
	b = append(b, `","taskversion":`...)
	b = strconv.AppendInt(b, tk.Version, 10)
	b = append(b, `,"data":{"task_id":"`...)
	b = append(b, tk.ID...)
	b = append(b, `","title":"`...)
	b = append(b, tk.Title...)
	b = append(b, `","status":"`...)
	b = append(b, tk.Status...)
	b = append(b, `","owner_id":`...)
	if tk.OwnerID == "" {
		return append(b, `null}}`...)
	}
	return append(append(append(b, '"'), tk.OwnerID...), `"}}`...)
}

// plain says whether s is printable ASCII that stands for itself in JSON.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
