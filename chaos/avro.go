package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/avro"

	"github.com/taskwire/taskwire/schemas"
)

// taskEvent is the data of a record in Avro, with the members of its JSON in order.
type taskEvent struct {
	TaskID  string  `avro:"task_id" json:"task_id"`
	Title   string  `avro:"title" json:"title"`
	Status  string  `avro:"status" json:"status"`
	OwnerID *string `avro:"owner_id" json:"owner_id"`
}

var taskSchema = sync.OnceValue(func() *avro.Schema { return avro.MustParse(schemas.TaskEvent) })

// readBinary reads a record in binary mode, without the code under test. ok is false for
// what is no event of a task.
func readBinary(headers []protocol.Header, value []byte) (e cloudEvent, isAvro, ok bool) {
	contentType := ""
	for _, h := range headers {
		text := string(h.Value)
		switch h.Key {
		case "ce_id":
			e.ID = text
		case "ce_source":
			e.Source = text
		case "ce_type":
			e.Type = text
		case "ce_subject":
			e.Subject = text
		case "ce_correlationid":
			e.Nonce = text
		case "ce_taskversion":
			if _, err := fmt.Sscan(text, &e.Version); err != nil {
				return e, false, false
			}
		case "content-type":
			contentType = text
		}
	}
	if e.ID == "" || contentType != "application/avro" {
		e.Data = value
		return e, false, e.ID != ""
	}
	if len(value) < 5 || value[0] != 0 || binary.BigEndian.Uint32(value[1:]) == 0 {
		return e, true, false
	}
	var d taskEvent
	if rest, err := taskSchema().Decode(value[5:], &d); err != nil || len(rest) > 0 {
		return e, true, false
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if enc.Encode(d) != nil {
		return e, true, false
	}
	e.Data = bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	return e, true, true
}
