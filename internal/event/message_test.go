package event_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/internal/event"
)

// The HTTP forms as a sender writes them. Only the tests need all of them: the
// bridge posts structured bytes as it finds or makes them.

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

func binaryHTTP(e event.Event) (http.Header, []byte, error) {
	h := http.Header{}
	for _, name := range event.Attributes(e) {
		text, _ := event.Attribute(e, name)
		if name == "datacontenttype" {
			h.Set("Content-Type", text)
			continue
		}
		h.Set("ce-"+name, percentEncode(text))
	}
	return h, e.DataEncoded, nil
}

// percentEncode encodes a header value as the HTTP binding asks: spaces, double
// quotes, percent signs and everything that is not printable ASCII, byte by byte.
func percentEncode(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
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
