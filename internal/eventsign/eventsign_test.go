package eventsign_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskwire/taskwire/internal/event"
	"github.com/taskwire/taskwire/internal/eventsign"
)

// key makes the nth key of the tests.
func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(n byte) string { return eventsign.PublicText(key(n).Public().(ed25519.PublicKey)) }

func keys(t *testing.T, lines ...string) eventsign.Keys {
	t.Helper()
	k, err := eventsign.ParseKeys([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// keyFile holds a private key.
func keyFile(t *testing.T, private ed25519.PrivateKey) string {
	t.Helper()
	content, err := eventsign.MarshalPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// verified is the error of VerifyLine.
func verified(_ bool, err error) error { return err }

// change is the event of docs/event-signatures.md.
func change(t *testing.T) []byte {
	t.Helper()
	body, err := event.AppendChange(nil, event.Change{
		ID: "01936b2e-7c00-7abc-8def-000000000001", Type: event.TypeCreated,
		Time: time.Date(2026, 11, 30, 10, 0, 0, 123456000, time.UTC), TaskVersion: 1,
		CorrelationID: "c-1", Actor: "ci",
		Data: event.Data{TaskID: "01936b2e-7c00-7abc-8def-000000000002", Title: "Grüße", Status: "pending"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func signed(t *testing.T, private ed25519.PrivateKey) []byte {
	t.Helper()
	signer, err := eventsign.OpenSigner(keyFile(t, private), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	body, err := signer.Sign(change(t))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func parse(t *testing.T, body []byte) event.Event {
	t.Helper()
	e, err := event.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func reason(err error) eventsign.Reason {
	var e *eventsign.Error
	if !errors.As(err, &e) {
		return eventsign.Reason(fmt.Sprint(err))
	}
	return e.Reason
}

// The example of the document. A change of these bytes makes every signature in
// every audit log worthless.
func TestTheBytesAreAsDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/event-signatures.md")
	if err != nil {
		t.Fatal(err)
	}
	e := parse(t, signed(t, key(1)))
	message := eventsign.Message(e)
	sum := sha256.Sum256(message)
	signature, _ := event.Attribute(e, eventsign.Attribute)
	for what, text := range map[string]string{
		"public key": "task-api " + public(1), "length": fmt.Sprintf("%d bytes", len(message)),
		"SHA-256": hex.EncodeToString(sum[:]), "signature": signature,
		"beginning": hex.EncodeToString(message[:60]),
		"line":      string(line(t, e)),
	} {
		if !bytes.Contains(document, []byte(text)) {
			t.Errorf("the document does not have the %s of its example: %s", what, text)
		}
	}
}

// line is e as the auditor writes it; auditor/app holds the real one against this package.
func line(t *testing.T, e event.Event) []byte {
	t.Helper()
	get := func(name string) string { text, _ := event.Attribute(e, name); return text }
	return fmt.Appendf(nil, `{"seq":1,"event_id":%q,"event_type":%q,"occurred_at":%q,"data":%s,"metadata":{"correlation_id":%q,"source":%q},`+
		`"attributes":{"actor":%q,"datacontenttype":%q,"partitionkey":%q,"producersignature":%q,"specversion":"1.0","subject":%q,"taskversion":%s},"audited_at":"2026-11-30T10:00:00.200000Z"}`,
		e.ID(), e.Type(), get("time"), e.Data(), get("correlationid"), e.Source(),
		get("actor"), get("datacontenttype"), get("partitionkey"), get("producersignature"), get("subject"), get("taskversion"))
}

// Whatever form an event travels in, its signature holds.
func TestEveryFormCarriesTheSignature(t *testing.T) {
	k := keys(t, "task-api "+public(1))
	body := signed(t, key(1))
	e := parse(t, body)
	for name, record := range map[string]func() (event.Record, error){
		"structured": func() (event.Record, error) { return event.Structured("k", body), nil },
		"binary":     func() (event.Record, error) { return event.Binary(e) },
		"envelope":   func() (event.Record, error) { return event.Envelope(e) },
	} {
		r, err := record()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := event.FromRecord(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := k.Verify(got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		again, err := event.Append(nil, got)
		if err != nil || !bytes.Equal(again, body) {
			t.Errorf("%s: the event came back as %s, %v", name, again, err)
		}
	}
	if err := verified(k.VerifyLine(line(t, e))); err != nil {
		t.Errorf("line: %v", err)
	}
}

func TestWhateverChangesIsNoticed(t *testing.T) {
	k := keys(t, "task-api "+public(1), "task-api "+public(2), "other "+public(1))
	body := signed(t, key(1))
	if err := k.Verify(parse(t, body)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		old, new string
		want     eventsign.Reason
	}{
		{`"title":"Grüße"`, `"title":"Grusse"`, eventsign.Wrong},
		{`"owner_id":null`, `"owner_id" :null`, eventsign.Wrong},
		{`"status":"pending"`, `"status":"completed"`, eventsign.Wrong},
		{`"id":"01936b2e-7c00-7abc-8def-000000000001"`, `"id":"x"`, eventsign.Wrong},
		{`"type":"task.created"`, `"type":"task.updated"`, eventsign.Wrong},
		{`"source":"task-api"`, `"source":"other"`, eventsign.Wrong},
		{`"subject":"0`, `"subject":"1`, eventsign.Wrong},
		{`"time":"2026-11-30T10:00:00.123456Z"`, `"time":"2026-11-30T10:00:00.123457Z"`, eventsign.Wrong},
		{`"taskversion":1`, `"taskversion":2`, eventsign.Wrong},
		{`"actor":"ci",`, ``, eventsign.Wrong},
		{`"actor":"ci"`, `"actor":"ci","added":"x"`, eventsign.Wrong},
		{`"actor":"ci","correlationid":"c-1"`, `"actor":"cic-1"`, eventsign.Wrong},
		{`"producersignature":"ed25519:`, `"producersignature":"`, eventsign.Malformed},
		{`==","taskversion"`, `=","taskversion"`, eventsign.Malformed},
		{`"producersignature":"ed25519:`, `"producersignature":"ed25519:0123456789abcdef:`, eventsign.Malformed},
		{`"producersignature":`, `"producersignaturex":`, eventsign.Missing},
		{`"source":"task-api"`, `"source":"somebody"`, "<nil>"}, // has no keys, and speaks for itself only
	} {
		altered := bytes.Replace(body, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(altered, body) {
			t.Fatalf("%s is not in %s", c.old, body)
		}
		if got := reason(k.Verify(parse(t, altered))); got != c.want {
			t.Errorf("%s -> %s: %s, want %s", c.old, c.new, got, c.want)
		}
	}
	if got := reason(k.Verify(parse(t, signed(t, key(3))))); got != eventsign.UnknownKey {
		t.Errorf("a key of nobody: %s", got)
	}
	// The id of a known key with the signature of another.
	forged := strings.Replace(string(signed(t, key(2))), keyID(t, signed(t, key(2))), keyID(t, body), 1)
	if got := reason(k.Verify(parse(t, []byte(forged)))); got != eventsign.Wrong {
		t.Errorf("another's signature: %s", got)
	}
}

func keyID(t *testing.T, body []byte) string {
	text, _ := event.Attribute(parse(t, body), eventsign.Attribute)
	return strings.Split(text, ":")[1]
}

func TestALineIsHeldToItsSignature(t *testing.T) {
	k := keys(t, "task-api "+public(1))
	good := line(t, parse(t, signed(t, key(1))))
	for _, c := range []struct {
		old, new string
		want     eventsign.Reason
	}{
		{`"seq":1`, `"seq":2`, "<nil>"},
		{`.200000Z`, `.300000Z`, "<nil>"},
		{`"title":"Grüße"`, `"title":"Grusse"`, eventsign.Wrong},
		{`"data":`, `"data_base64":"e30=","dato":`, `not a line of an audit log: it has the member "dato"`},
		{`"data":`, `"data_base64":"e30=","data":`, "not a line of an audit log: it has two data"},
		{`"correlation_id":"c-1"`, `"correlation_id":null`, eventsign.Wrong},
		{`"occurred_at":"2026-11-30`, `"occurred_at":"2026-11-29`, eventsign.Wrong},
		{`"taskversion":1`, `"taskversion":"1"`, "<nil>"}, // the same text
		{`"source":"task-api"`, `"source":"task-api","source":"x"`, `not a line of an audit log: jsontext: duplicate object member name "source"`},
		{`"producersignature":`, `"other":`, eventsign.Missing},
		{`"source":"task-api"`, `"nosource":"task-api"`, "not a line of an audit log: it has no source"},
	} {
		altered := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(altered, good) {
			t.Fatalf("%s is not in %s", c.old, good)
		}
		if got := reason(verified(k.VerifyLine(altered))); !strings.HasPrefix(string(got), string(c.want)) {
			t.Errorf("%s -> %s: %s, want %s", c.old, c.new, got, c.want)
		}
	}
	for _, text := range []string{"", "[]", "{}", "{", `{"seq":1} `, string(good) + "{}"} {
		if err := verified(k.VerifyLine([]byte(text))); err == nil {
			t.Errorf("%q passes", text)
		}
	}
	if err := verified(k.VerifyLine(append(good, '\n'))); err != nil {
		t.Error(err)
	}
}

// Data of any shape has the same bytes in an event and in its line.
func TestDataOfEveryShape(t *testing.T) {
	k := keys(t, "s "+public(1))
	for _, c := range []struct{ event, line string }{
		{`"datacontenttype":"application/json","data":{"a" :` + "\r\n" + `1}`, `"attributes":{"datacontenttype":"application/json",`},
		{`"datacontenttype":"text/plain","data":" two\nlines "`, `"attributes":{"datacontenttype":"text/plain",`},
		{`"datacontenttype":"image/png","data_base64":"iVBORw0K"`, `"attributes":{"datacontenttype":"image/png",`},
		{`"data_base64":"Cv8K"`, `"attributes":{`},
		{`"subject":"no data"`, `"attributes":{"subject":"no data",`},
	} {
		signer, err := eventsign.OpenSigner(keyFile(t, key(1)), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		body, err := signer.Sign([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t",` + c.event + `}`))
		if err != nil {
			t.Fatal(err)
		}
		e := parse(t, body)
		if err := k.Verify(e); err != nil {
			t.Errorf("%s: %v", c.event, err)
		}
		data := ""
		switch {
		case strings.Contains(c.event, "json"):
			data = `"data":{"a" :  1},`
		case len(e.DataEncoded) > 0:
			data = fmt.Sprintf(`"data_base64":%q,`, base64Of(e.DataEncoded))
		}
		signature, _ := event.Attribute(e, eventsign.Attribute)
		l := fmt.Sprintf(`{"seq":1,"event_id":"1","event_type":"t","occurred_at":null,%s"metadata":{"correlation_id":null,"source":"s"},%s"producersignature":%q,"specversion":"1.0"},"audited_at":"x"}`, data, c.line, signature)
		if err := verified(k.VerifyLine([]byte(l))); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
}

func TestKeysAreReadStrictly(t *testing.T) {
	for content, want := range map[string]string{
		"":                          "has no keys",
		"# only a comment\n\n":      "has no keys",
		"task-api":                  "line 1: want a source and a key",
		"\ntask-api ed25519:AAAA":   "line 2: the key is not",
		"task-api " + public(1)[8:]: "line 1: the key is not",
		"a b c":                     "line 1: want a source",
	} {
		if _, err := eventsign.ParseKeys([]byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	for content, want := range map[string]string{
		"": "want a PEM block", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n": "want an Ed25519 key",
	} {
		if _, err := eventsign.ParsePrivateKey([]byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	one, err := eventsign.MarshalPrivateKey(key(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eventsign.ParsePrivateKey(append(one, one...)); err == nil {
		t.Error("two private keys pass")
	}
}

// A rotation: the new key is made known, signs, and the old one is forgotten. A
// file that cannot be used signs and accepts nothing.
func TestKeysChangeWhileTheyAreInUse(t *testing.T) {
	private, known := keyFile(t, key(1)), filepath.Join(t.TempDir(), "keys")
	write := func(path, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(known, "task-api "+public(1)+"\n")
	body := change(t)
	synctest.Test(t, func(t *testing.T) {
		signer, err := eventsign.OpenSigner(private, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		verifier, err := eventsign.OpenVerifier(known, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		verify := func() eventsign.Reason {
			time.Sleep(2 * time.Second) // of the bubble's clock: the files are looked at again
			signed, err := signer.Sign(body)
			if err != nil {
				return "unsigned"
			}
			return reason(verifier.Verify(parse(t, signed)))
		}
		second, err := eventsign.MarshalPrivateKey(key(2))
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			do   func()
			want eventsign.Reason
		}{
			{func() {}, "<nil>"},
			{func() { write(private, string(second)+"\n") }, eventsign.UnknownKey},
			{func() { write(known, "task-api "+public(1)+"\ntask-api "+public(2)+"\n") }, "<nil>"},
			{func() { write(known, "task-api "+public(2)+"\n# the old one is gone\n") }, "<nil>"},
			{func() { write(known, "") }, eventsign.NoKeys},
			{func() { write(private, "") }, "unsigned"},
		} {
			step.do()
			if got := verify(); got != step.want {
				t.Errorf("got %s, want %s", got, step.want)
			}
		}
		if signer.Err() == nil || verifier.Err() == nil {
			t.Error("files that cannot be used are not reported")
		}
	})
}
