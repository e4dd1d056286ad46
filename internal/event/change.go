package event

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// Change is one change of a task, as the Task API's transaction made it.
type Change struct {
	ID            string // UUIDv7
	Type          string
	Time          time.Time
	TaskVersion   int64 // 1, 2, 3 ... per task
	CorrelationID string
	Actor         string // "" when the API is open
	TraceParent   string // "" when there is none
	TraceState    string
	DataSchema    string // address of the JSON Schema of Data; "" for none
	Data          Data
}

// AppendChange adds the structured JSON form of c's event to dst: the bytes
// that Append would write. Subject and partition key are the task's id, so that
// all events of a task keep their order.
//
// It builds no Event on the way and allocates nothing but the result, because
// the Task API makes events in the one goroutine that all changes wait for. For
// the same reason no error of it holds a string of c: c can stay on the caller's
// stack.
func AppendChange(dst []byte, c Change) ([]byte, error) {
	if err := c.check(); err != nil {
		return dst, err
	}
	var attributes, data quoter
	b := slices.Grow(dst, 512+len(c.Data.Title))
	b = append(b, `{"specversion":"`+specVersion+`","id":`...)
	b = attributes.append(b, c.ID)
	b = append(b, `,"source":"`+Source+`","type":"`...)
	b = append(b, c.Type...)
	b = append(b, `","subject":`...)
	from := len(b)
	b = attributes.append(b, c.Data.TaskID)
	taskID := b[from:]
	b = append(b, `,"time":"`...)
	b = c.Time.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","datacontenttype":"`+mediaJSON+`"`...)
	b = attributes.member(b, `,"dataschema":`, c.DataSchema)
	b = attributes.member(b, `,"`+Actor+`":`, c.Actor)
	b = attributes.member(b, `,"`+CorrelationID+`":`, c.CorrelationID)
	b = append(b, `,"`+PartitionKey+`":`...)
	b = append(b, taskID...)
	b = append(b, `,"`+VersionOfTask+`":`...)
	b = strconv.AppendInt(b, c.TaskVersion, 10)
	b = attributes.member(b, `,"`+TraceParent+`":`, c.TraceParent)
	b = attributes.member(b, `,"`+TraceState+`":`, c.TraceState)
	b = append(b, `,"data":{"task_id":`...)
	b = append(b, taskID...)
	b = append(b, `,"title":`...)
	b = data.append(b, c.Data.Title)
	b = append(b, `,"status":`...)
	b = data.append(b, c.Data.Status)
	b = append(b, `,"owner_id":`...)
	if c.Data.OwnerID == nil {
		b = append(b, "null"...)
	} else {
		b = data.append(b, *c.Data.OwnerID)
	}
	b = append(b, '}', '}')
	if attributes.invalid || data.invalid {
		return dst, errors.New("a text of the change is not UTF-8")
	}
	if attributes.escaped || attributes.size > maxValue {
		// Only the reader knows everything that an attribute must not be.
		if _, err := Parse(b[len(dst):]); err != nil {
			return dst, err
		}
	}
	return b, nil
}

// member adds an optional member, which has no empty value.
func (q *quoter) member(b []byte, prefix, value string) []byte {
	if value == "" {
		return b
	}
	return q.append(append(b, prefix...), value)
}

func (c *Change) check() error {
	switch {
	case c.ID == "":
		return errors.New("the change has no id")
	case c.Type != TypeCreated && c.Type != TypeUpdated && c.Type != TypeCompleted:
		return errors.New("the change's type is not that of a task event")
	case c.Time.IsZero():
		return errors.New("the change has no time")
	case !writableYear(c.Time):
		return errors.New("the change's time is outside the years 0 to 9999")
	case c.Data.TaskID == "":
		return errors.New("the change has no task id")
	case c.TaskVersion < 1 || c.TaskVersion > math.MaxInt32:
		return fmt.Errorf("task version %d does not fit a CloudEvents integer", c.TaskVersion)
	}
	return nil
}
