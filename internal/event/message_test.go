package event_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"testing"

	sdk "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
)

// The HTTP forms as a sender writes them, beside event.BinaryHTTP: the bridge
// posts structured bytes as it finds or makes them.

func structuredHTTP(e event.Event) (http.Header, []byte, error) {
	body, err := event.Append(nil, e)
	return http.Header{"Content-Type": {event.HTTPContentType}}, body, err
}

func batchHTTP(events ...event.Event) (http.Header, []byte, error) {
	body := []byte{'['}
	for i, e := range events {
		if i > 0 {
			body = append(body, ',')
		}
		var err error
		if body, err = event.Append(body, e); err != nil {
			return nil, nil, err
		}
	}
	return http.Header{"Content-Type": {"application/cloudevents-batch+json; charset=utf-8"}}, append(body, ']'), nil
}

// TestMessagesAreRead reads messages from files, so that a mistake that the
// writers above share with the reader is found.
func TestMessagesAreRead(t *testing.T) {
	want := facts(sample(t))
	for name, n := range map[string]int{"http-structured": 1, "http-binary": 1, "http-batch": 2} {
		header, body := readMessage(t, name)
		events, err := event.FromHTTP(header, body)
		if err != nil || len(events) != n {
			t.Errorf("%s: %d events, %v, want %d", name, len(events), err, n)
		}
		for _, e := range events {
			if diff := cmp.Diff(want, facts(e)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
	}
}

func readMessage(t *testing.T, name string) (http.Header, []byte) {
	t.Helper()
	head, body, ok := bytes.Cut(readGolden(t, name), []byte("\n\n"))
	if !ok {
		t.Fatalf("%s has no empty line", name)
	}
	header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(head, "\n\n"...)))).ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	return http.Header(header), bytes.TrimSuffix(body, []byte("\n"))
}

func TestContentTypes(t *testing.T) {
	if want := "application/cloudevents+json; charset=UTF-8"; event.KafkaContentType != want {
		t.Errorf("on Kafka %q, want %q", event.KafkaContentType, want)
	}
	if want := "application/cloudevents+json; charset=utf-8"; event.HTTPContentType != want {
		t.Errorf("over HTTP %q, want %q", event.HTTPContentType, want)
	}
	body := []byte(`{` + good + `}`)
	for _, contentType := range []string{event.KafkaContentType, event.HTTPContentType, "APPLICATION/CloudEvents+JSON; Charset=Utf-8"} {
		if _, mode, err := event.FromRecord(event.Record{Value: body, Headers: headers("Content-Type", contentType)}); mode != event.ModeStructured || err != nil {
			t.Errorf("a record of %s: mode %q, %v", contentType, mode, err)
		}
		if _, err := event.FromHTTP(http.Header{"Content-Type": {contentType}}, body); err != nil {
			t.Errorf("a message of %s: %v", contentType, err)
		}
	}
}

// TestTheSDKReadsTheBinaryForm: other receivers must understand it. The SDK
// decodes no percent signs, so the values are plain.
func TestTheSDKReadsTheBinaryForm(t *testing.T) {
	e, err := event.Parse([]byte(`{` + good + `,"subject":"a/b","time":"2025-01-15T10:30:00Z","taskversion":7,"datacontenttype":"text/plain","data":"plain"}`))
	if err != nil {
		t.Fatal(err)
	}
	h, body, err := event.BinaryHTTP(e)
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest("POST", "/", bytes.NewReader(body))
	req.Header = h
	got, err := sdk.NewEventFromHTTPRequest(req)
	if err != nil {
		t.Fatal(err)
	}
	want := facts(e)
	if diff := cmp.Diff(want, facts(*got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAMessageInAMessageHasNoBinaryForm: a sink would take the data for the event.
func TestAMessageInAMessageHasNoBinaryForm(t *testing.T) {
	for _, contentType := range []string{"application/cloudevents+json", " Application/CloudEvents-batch+json; charset=utf-8", "application/cloudevents+avro"} {
		e, err := event.Parse([]byte(`{` + good + `,"datacontenttype":"` + contentType + `","data_base64":"e30="}`))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = event.BinaryHTTP(e)
		wantInvalid(t, err, "datacontenttype", "cannot carry")
	}
}
