package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/retry"
)

// secretFile is what the bridges sign with and the sinks verify.
const secretFile = "webhook-secret"

func (y *system) writeSecret() error {
	return os.WriteFile(y.path(secretFile), []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600)
}

// injectIntruder posts events that no change caused straight to the auditor, as
// somebody can who reaches its port and has no secret. One that gets into the log
// is a PHANTOM.
func injectIntruder(y *system, _ context.Context) (fault, error) {
	var forged []string
	for range 3 {
		task := uuid(y.rand)
		forged = append(forged, fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"task-api","type":"task.created","subject":%q,"partitionkey":%[2]q,`+
			`"time":"2026-01-01T00:00:00Z","datacontenttype":"application/json","correlationid":%q,"taskversion":1,`+
			`"data":{"task_id":%[2]q,"title":"forged","status":"pending","owner_id":null}}`, uuid(y.rand), task, uuid(y.rand)))
	}
	return fault{target: "intruder at the auditor", heal: func() error {
		for _, event := range forged {
			y.intrude(event)
		}
		return nil
	}}, nil
}

// intrude waits for an auditor that another fault has taken down.
func (y *system) intrude(event string) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		status, err := y.post(ctx, event)
		if err == nil && status == http.StatusUnauthorized {
			y.forgedRefused.Add(1)
			return
		}
		if err == nil {
			y.printf("a forged event was answered %d", status)
			return
		}
		if retry.Pause(ctx, 100*time.Millisecond) != nil {
			return
		}
	}
}

func (y *system) post(ctx context.Context, event string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, y.rec.sinks[0], strings.NewReader(event))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	resp, err := y.rec.client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
