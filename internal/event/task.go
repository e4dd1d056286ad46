package event

import (
	"strconv"

	"github.com/go-json-experiment/json"
)

// Data is what each task event carries: the task after the change.
type Data struct {
	TaskID  string  `json:"task_id"`
	Title   string  `json:"title"`
	Status  string  `json:"status"`
	OwnerID *string `json:"owner_id"` // null when nobody owns the task
}

// Task returns the task that e is about; it has an id and a title. Members
// other than the four of Data are ignored.
func Task(e Event) (Data, error) {
	if len(e.DataEncoded) == 0 {
		return Data{}, invalid("data", "is missing")
	}
	var d Data
	if err := json.Unmarshal(e.DataEncoded, &d); err != nil {
		return Data{}, invalid("data", "is not a JSON object with the strings task_id, title, status and owner_id")
	}
	switch {
	case d.TaskID == "":
		return Data{}, invalid("data", "has no task_id")
	case d.Title == "":
		return Data{}, invalid("data", "has no title")
	}
	return d, nil
}

// TaskVersion returns the position of e among the changes of its task. It is
// false for an event without a usable one: events from elsewhere need none.
func TaskVersion(e Event) (int64, bool) {
	s, ok := Attribute(e, VersionOfTask)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return n, err == nil && n >= 1
}
