package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/taskwire/taskwire/internal/check"
)

// posted is what one post delivers: an event, or those of a batch.
type posted []check.Delivery

// contents reads the events of a post. d is what they have in common.
func contents(req *http.Request, body []byte, d check.Delivery) (posted, error) {
	events := make([]cloudEvent, 1)
	var err error
	if strings.HasPrefix(req.Header.Get("Content-Type"), "application/cloudevents-batch") {
		err = json.Unmarshal(body, &events)
	} else {
		err = json.Unmarshal(body, &events[0])
	}
	offsets := strings.Split(req.Header.Get("Taskwire-Offset"), ",")
	if err == nil && len(offsets) != len(events) {
		err = fmt.Errorf("%d offsets are given for %d events", len(offsets), len(events))
	}
	if err != nil {
		return posted{d}, err
	}
	p := make(posted, len(events))
	for i, e := range events {
		d.Source, d.Event, d.Task = e.Source, e.ID, e.Subject
		d.Offset, _ = strconv.ParseInt(offsets[i], 10, 64)
		p[i] = d
	}
	return p, nil
}

// answered sets the status of each event: its own, if the answer to a batch has
// one for each, else that of the answer.
func (p posted) answered(status int, answer []byte) {
	var each []struct {
		Status int `json:"status"`
	}
	own := json.Unmarshal(answer, &each) == nil && len(each) == len(p)
	for i := range p {
		if p[i].Status = status; own {
			p[i].Status = each[i].Status
		}
	}
}
