package app

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/taskwire/taskwire/internal/event"
)

// TestTheContentTypeDecidesHowDataIsKept: JSON under another type is not JSON.
func TestTheContentTypeDecidesHowDataIsKept(t *testing.T) {
	for members, base64 := range map[string]bool{
		`"data":12`: false,
		`"datacontenttype":"application/json","data":{"a":1}`:                      false,
		`"datacontenttype":"application/vnd.x+json; charset=utf-8","data":{"a":1}`: false,
		`"datacontenttype":"TEXT/JSON","data":[]`:                                  false,
		`"datacontenttype":"text/plain","data":"12"`:                               true,
		`"datacontenttype":"application/octet-stream","data_base64":"MTI="`:        true,
	} {
		e, err := event.Parse([]byte(`{"specversion":"1.0","id":"1","source":"s","type":"t",` + members + `}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := entryOf(e).Base64; got != base64 {
			t.Errorf("%s: kept as base64 %v, want %v", members, got, base64)
		}
	}
}

// The answer is written by hand; it is what encoding/json makes of it.
func TestTheAnswerIsThatOfEncodingJSON(t *testing.T) {
	for _, a := range []answer{{}, {Seq: 1, Duplicate: true}, {Seq: math.MaxInt64}} {
		want, err := json.Marshal(a)
		if got := a.AppendJSON(nil); err != nil || string(got) != string(want) {
			t.Errorf("%s, want %s: %v", got, want, err)
		}
	}
}
