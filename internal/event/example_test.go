package event_test

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/taskwire/taskwire/internal/event"
)

var created = event.Change{
	ID: "0197a0b1-2c3d-7e4f-8a5b-6c7d8e9f0a1b", Type: event.TypeCreated, Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	TaskVersion: 1, CorrelationID: "req-1", Data: event.Data{TaskID: "t-1", Title: "Buy milk", Status: "pending"},
}

func ExampleAppendChange() {
	body, err := event.AppendChange(nil, created)
	fmt.Println(string(body), err)
	// Output:
	// {"specversion":"1.0","id":"0197a0b1-2c3d-7e4f-8a5b-6c7d8e9f0a1b","source":"task-api","type":"task.created","subject":"t-1","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","correlationid":"req-1","partitionkey":"t-1","taskversion":1,"data":{"task_id":"t-1","title":"Buy milk","status":"pending","owner_id":null}} <nil>
}

func ExampleParse() {
	body, _ := event.AppendChange(nil, created)
	e, err := event.Parse(body)
	if err != nil {
		fmt.Println(err)
		return
	}
	task, _ := event.Task(e)
	version, _ := event.TaskVersion(e)
	fmt.Printf("%s: %q, version %d\n", e.Type(), task.Title, version)
	// Output:
	// task.created: "Buy milk", version 1
}

func ExampleInvalidError() {
	_, err := event.Parse([]byte(`{"specversion": "1.0", "id": "1", "type": "task.created"}`))
	var invalid *event.InvalidError
	if errors.As(err, &invalid) {
		fmt.Println(err)
		fmt.Println(invalid.Pointer(), invalid.Reason)
	}
	// Output:
	// not a CloudEvent: source is missing
	// #/source is missing
}

func ExampleFromRecord() {
	body, _ := event.AppendChange(nil, created)
	e, _ := event.Parse(body)
	binary, _ := event.Binary(e)
	for _, r := range []event.Record{
		event.Structured("t-1", body),
		{Key: []byte("t-1"), Value: body},
		binary,
		{Value: []byte(`{"event_id": "1", "event_type": "task.created", "data": {"task_id": "t-1"}}`)},
	} {
		e, mode, err := event.FromRecord(r)
		fmt.Println(e.Type(), mode, err)
	}
	// Output:
	// task.created structured <nil>
	// task.created structured <nil>
	// task.created binary <nil>
	// task.created envelope <nil>
}

func ExampleFromHTTP() {
	header := http.Header{
		"Content-Type": {"application/json"}, "Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"curl"},
		"Ce-Type": {"task.created"}, "Ce-Subject": {"Gr%C3%B6%C3%9Fe"},
	}
	events, err := event.FromHTTP(header, []byte(`{"task_id": "t-1", "title": "By hand"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(len(events), events[0].Subject())
	// Output:
	// 1 Größe
}
