package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/eventsign"
	"github.com/taskwire/taskwire/internal/retry"
	"github.com/taskwire/taskwire/internal/webhook"
)

// secretFile is what the bridges sign with and the sinks verify.
const secretFile = "webhook-secret"

// signingKeyFile is what the Task API signs its events with, and verifyKeysFile what
// the auditor verifies them with.
const (
	signingKeyFile = "signing-key"
	verifyKeysFile = "verify-keys"
)

func (y *system) writeSecrets() error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key, err := eventsign.MarshalPrivateKey(private)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(y.path(secretFile), []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600),
		os.WriteFile(y.path(signingKeyFile), key, 0o600),
		os.WriteFile(y.path(verifyKeysFile), []byte("task-api "+eventsign.PublicText(public)+"\n"), 0o600))
}

// signed is a setting of a run with an intruder. In others the Task API's events are
// not signed: a mutant that changes them must reach the log, where the judge sees it.
func (y *system) signed(variable, file string) []string {
	if !slices.Contains(strings.Split(y.Faults, ","), "intruder") {
		return nil
	}
	return []string{variable + "=" + y.path(file)}
}

// injectIntruder posts events that no change caused straight to the auditor: as
// somebody can who reaches its port and has no secret, in the name of a producer whose
// signatures nobody verifies, and as a bridge that was taken over, which has the secret
// and not the Task API's key. One that gets into the log is a PHANTOM.
func injectIntruder(y *system, _ context.Context) (fault, error) {
	forge := func(source string) string {
		task := uuid(y.rand)
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"task.created","subject":%q,"partitionkey":%[3]q,`+
			`"time":"2026-01-01T00:00:00Z","datacontenttype":"application/json","correlationid":%q,"taskversion":1,`+
			`"data":{"task_id":%[3]q,"title":"forged","status":"pending","owner_id":null}}`, uuid(y.rand), source, task, uuid(y.rand))
	}
	var strange, known [3]string
	for i := range strange {
		strange[i], known[i] = forge("stranger"), forge("task-api")
	}
	return fault{target: "intruder at the auditor", heal: func() error {
		for i := range strange {
			y.intrude(strange[i], nil, http.StatusUnauthorized)
			y.intrude(known[i], y.signAsBridge, http.StatusForbidden)
		}
		return nil
	}}, nil
}

// intrude waits for an auditor that another fault has taken down.
func (y *system) intrude(event string, sign func(header http.Header, body string) error, want int) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		status, err := y.post(ctx, event, sign)
		if err == nil && status == want {
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

func (y *system) signAsBridge(header http.Header, body string) error {
	secrets, err := webhook.Open(y.path(secretFile), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	return secrets.Sign(header, "intruder", time.Now(), []byte(body))
}

func (y *system) post(ctx context.Context, event string, sign func(http.Header, string) error) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, y.rec.next(), strings.NewReader(event))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	if sign != nil {
		if err := sign(req.Header, event); err != nil {
			return 0, err
		}
	}
	resp, err := y.rec.client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
