package pump_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/taskwire/taskwire/bridge/internal/deadletter"
	taskevent "github.com/taskwire/taskwire/internal/event"
)

// Any record is delivered, in order per key and under the same id each time; only
// what no sink takes for its size becomes a dead letter.
func TestWrappedRecords(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	refused := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if _, err := taskevent.FromHTTP(r.Header, body); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if bytes.Contains(body, []byte(`"data":1`)) && !refused {
			refused = true
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		bodies = append(bodies, r.Header.Get("Traceparent")+string(bytes.ReplaceAll(body, cut(body, `"time":"`, `",`), nil)))
	}))
	t.Cleanup(s.Close)
	b := setup(t, s.URL)
	b.cfg.Wrap, b.cfg.Block = true, true
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	b.produce(
		&kgo.Record{Topic: "events", Key: []byte("k"), Value: []byte("1"), Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte(trace)}}},
		&kgo.Record{Topic: "events", Key: []byte("k"), Value: []byte("hello")},
		&kgo.Record{Topic: "events", Key: []byte("k"), Value: bytes.Repeat([]byte{0xff}, taskevent.MaxBytes*4/5)}, // its base64 is longer
		&kgo.Record{Topic: "events", Key: []byte("k")},
		event("1", "k"), // here it is data like any other
	)
	_, stop := b.run()
	b.untilCommitted(5)
	stop()
	const place, key = `{"specversion":"1.0","id":"events/0/`, `","source":"kafka:events","type":"kafka.record","subject":"k",`
	want := []string{
		trace + place + `0` + key + `"datacontenttype":"application/json","partitionkey":"k","traceparent":"` + trace + `","data":1}`,
		place + `1` + key + `"datacontenttype":"application/octet-stream","partitionkey":"k","data":"hello"}`,
		place + `3` + key + `"partitionkey":"k"}`,
		place + `4` + key + `"datacontenttype":"application/json","partitionkey":"k","data":{"specversion":"1.0","id":"1","source":"s","type":"t","partitionkey":"k"}}`,
	}
	if !slices.Equal(bodies, want) {
		t.Errorf("posts\n%q, want\n%q", bodies, want)
	}
	letters := b.letters()
	if len(letters) != 1 || letters[0].Letter.Offset != 2 || letters[0].Letter.Reason != deadletter.Malformed {
		t.Errorf("dead letters %+v, want offset 2, malformed", letters)
	}
}

// cut is the text from begin to the next end.
func cut(body []byte, begin, end string) []byte {
	_, after, ok := bytes.Cut(body, []byte(begin))
	if !ok {
		return []byte(begin)
	}
	text, _, _ := bytes.Cut(after, []byte(end))
	return slices.Concat([]byte(begin), text, []byte(end))
}
