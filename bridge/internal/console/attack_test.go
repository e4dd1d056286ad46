package console_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/taskwire/taskwire/bridge/internal/admin"
	"github.com/taskwire/taskwire/bridge/internal/console"
	"github.com/taskwire/taskwire/bridge/internal/journal"
	"github.com/taskwire/taskwire/bridge/internal/redrive"
	"github.com/taskwire/taskwire/internal/embedkafka"
	"github.com/taskwire/taskwire/internal/kafka"
)

// A page of another site may lead here, and that is all: what it loads as a picture, a
// script, a frame or by fetch would keep the bridge busy, hold its streams, or show by
// its size and time what is in the log.
func TestOtherSitesLoadNothing(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/", "/console/subscriptions", "/console/audit", "/console/sign-in", "/console/nothing"} {
		for name, c := range map[string]struct {
			lines []string
			good  bool
		}{
			"picture":           {[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, false},
			"script":            {[]string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"}, false},
			"fetch":             {[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"}, false},
			"frame":             {[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, false},
			"object":            {[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: object"}, false},
			"link":              {[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, true},
			"bookmark":          {[]string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, true},
			"the console":       {[]string{"Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"}, true},
			"curl, old browser": {nil, true},
		} {
			if got := b.ask("GET", path, "", c.lines...).StatusCode; (got != http.StatusForbidden) != c.good {
				t.Errorf("GET %s as a %s: %d", path, name, got)
			}
		}
	}
	if got := b.ask("GET", "/events", "", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: empty").StatusCode; got != http.StatusForbidden {
		t.Errorf("GET /events by a page of another port: %d", got)
	}
}

// A stream that was opened with a session does not outlive it.
func TestAStreamEndsWithItsSession(t *testing.T) {
	b := newBench(t, withToken(t, tokenFile(t, secret)))
	server := httptest.NewServer(b.handler)
	defer server.Close()
	cookie := "Cookie: taskwire_session=" + b.ask("POST", "/console/sign-in", "token="+secret).Cookies()[0].Value
	r, leave := stream(t, server.URL, "", cookie)
	defer leave()
	b.steps.Add(journal.Step{Kind: journal.Received, Event: "one"})
	until(t, r, `"one"`)
	b.ask("POST", "/console/sign-out", "", cookie)
	b.steps.Add(journal.Step{Kind: journal.Received, Event: "two"})
	rest, err := io.ReadAll(r)
	if err != nil || strings.Contains(string(rest), "two") {
		t.Errorf("after signing out the stream goes on: %q, %v", rest, err)
	}
}

// Records that are long or deep make pages of a bounded size.
func TestTextsAreBounded(t *testing.T) {
	const most = 3 << 20
	for name, text := range map[string]string{
		"deep":             strings.Repeat("[", 9999) + strings.Repeat("]", 9999),
		"deep and wide":    strings.Repeat("[", 9000) + strings.Repeat("[],", 200_000) + "[]" + strings.Repeat("]", 9000),
		"wide":             "[" + strings.Repeat("[],", 350_000) + "[]]",
		"wide, a bit deep": strings.Repeat("[", 31) + strings.Repeat("[],", 21_000) + "[]" + strings.Repeat("]", 31),
		"deep in a text":   `["` + strings.Repeat(`[\"`, 300_000) + `"]`,
		"binary":           strings.Repeat("\xff\x00\u202e", 200_000),
	} {
		if got := console.Pretty([]byte(text)); len(got) > most {
			t.Errorf("%s: %d bytes become %d", name, len(text), len(got))
		}
	}
	if got := console.Pretty([]byte(`{"n":12345678901234567890,"t":"[[[["}`)); got != "{\n  \"n\": 12345678901234567890,\n  \"t\": \"[[[[\"\n}" {
		t.Errorf("a small one is %s", got)
	}
}

// Only a few scans of topics run at a time, whoever asks for them.
func TestScansAreBounded(t *testing.T) {
	letters := admin.NewReader()
	for {
		leave, ok := letters.Enter()
		if !ok {
			break
		}
		defer leave()
	}
	b := newBench(t, func(cfg *console.Config) { cfg.Admin.Letters = letters })
	resp := b.ask("GET", "/console/deadletters/audit/0/0", "")
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(resp.text, "try again") {
		t.Errorf("one more: %d %.300s", resp.StatusCode, resp.text)
	}
}

// What only operators may see of a record is not for whoever reaches the bridge.
func TestPayloadsAreForOperators(t *testing.T) {
	broker, err := embedkafka.Start(embedkafka.Config{Topics: map[string]int{"task-events": 1, "task-events-dlq": 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	cfg := kafka.Config{Brokers: []string{broker.Addr()}}
	transport, err := kafka.NewTransport(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	client := kafka.NewClient(cfg, transport)
	header := kafkago.Header{Key: "x", Value: []byte("hunter2")}
	if _, err := client.Produce(t.Context(), &kafkago.ProduceRequest{Topic: "task-events", RequiredAcks: kafkago.RequireAll, Records: kafkago.NewRecordReader(kafkago.Record{Key: kafkago.NewBytes([]byte("k")), Value: kafkago.NewBytes([]byte("hunter2")), Headers: []kafkago.Header{header}})}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*console.Config)
		lines  []string
		shown  bool
	}{
		"this machine":            {nil, nil, true},
		"whoever reaches it":      {func(cfg *console.Config) { cfg.Admin.Loopback = false }, nil, false},
		"somebody with a token":   {withToken(t, tokenFile(t, secret)), []string{"Authorization: Bearer " + secret}, true},
		"an operator, but hidden": {func(cfg *console.Config) { cfg.Admin.HidePayloads = true }, nil, false},
	} {
		b := newBenchOn(t, client, c.change)
		for _, tab := range []string{"", "?tab=headers", "?tab=raw"} {
			resp := b.ask("GET", "/console/event/task-events/0/0"+tab, "", c.lines...)
			if shown := strings.Contains(resp.text, "hunter2"); resp.StatusCode != http.StatusOK || shown != c.shown {
				t.Errorf("%s, %q: %d, the payload is shown: %v", name, tab, resp.StatusCode, shown)
			}
		}
	}
}

// Nothing is said of letters that are still being counted.
func TestACountIsNotJudgedBeforeItsEnd(t *testing.T) {
	b := newBench(t, nil)
	for state, want := range map[redrive.State]string{redrive.Running: "They are being counted.", redrive.Done: "None of them has newer events already delivered"} {
		w := httptest.NewRecorder()
		b.console.ShowJob(w, httptest.NewRequest("GET", "http://localhost/console/jobs/1", nil), redrive.View{ID: "1", Kind: redrive.Redrive, DryRun: true, State: state, Plan: &redrive.Plan{Letters: 3}})
		if text := w.Body.String(); !strings.Contains(text, want) || strings.Contains(text, "None of them") != (state == redrive.Done) {
			t.Errorf("%s: %s", state, text)
		}
	}
}

// Whatever the bytes are, what is shown is text that can be printed, and not much of it.
func FuzzPretty(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"\u202e",{}]}`, "[[[[", "\xff\x00", `"\`, "\u2028<script>"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := console.Pretty(text)
		if len(got) > 100*len(text)+200 {
			t.Errorf("%d bytes become %d", len(text), len(got))
		}
		for _, r := range got {
			if r != '\n' && r != '\t' && (!unicode.IsPrint(r) || r == unicode.ReplacementChar) {
				t.Fatalf("%q is shown as %q, which has %U", text, got, r)
			}
		}
	})
}
