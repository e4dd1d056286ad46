package seal_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskwire/taskwire/bridge/internal/seal"
)

const first, second = "0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff"

var (
	keys  = seal.Keys{[]byte(first)}
	place = seal.Place{Group: "audit-service", Topic: "task-events", Partition: 3, Offset: 1000}
)

func TestASealIsForOnePlaceAndOneMap(t *testing.T) {
	sealed := keys.Seal(place, "tw1bAAAA")
	if len(sealed) != seal.Size+len("tw1bAAAA") {
		t.Errorf("the seal has %d bytes, want Size, %d", len(sealed)-len("tw1bAAAA"), seal.Size)
	}
	if got, old, err := keys.Open(place, sealed); got != "tw1bAAAA" || old || err != nil {
		t.Errorf("Open = %q, %t, %v", got, old, err)
	}
	at := func(change func(*seal.Place)) seal.Place { p := place; change(&p); return p }
	for name, c := range map[string]struct {
		place  seal.Place
		sealed string
	}{
		"another group":              {at(func(p *seal.Place) { p.Group = "other" }), sealed},
		"another topic":              {at(func(p *seal.Place) { p.Topic = "other" }), sealed},
		"group and topic shifted":    {at(func(p *seal.Place) { p.Group, p.Topic = p.Group+"t", "ask-events" }), sealed},
		"another partition":          {at(func(p *seal.Place) { p.Partition = 4 }), sealed},
		"the next offset":            {at(func(p *seal.Place) { p.Offset++ }), sealed},
		"another map":                {place, sealed[:len(sealed)-1] + "B"},
		"without its map":            {place, sealed[:seal.Size]},
		"without its seal":           {place, "tw1bAAAA"},
		"empty":                      {place, ""},
		"cut":                        {place, sealed[:seal.Size-1]},
		"no base64":                  {place, sealed[:10] + "!" + sealed[11:]},
		"the last bits of the seal":  {place, sealed[:seal.Size-1] + string(sealed[seal.Size-1]+1) + sealed[seal.Size:]},
		"sealed with an unknown key": {place, seal.Keys{[]byte(second)}.Seal(place, "tw1bAAAA")},
	} {
		if got, _, err := keys.Open(c.place, c.sealed); err == nil || got != "" {
			t.Errorf("%s: Open = %q, %v, want an error", name, got, err)
		}
	}
}

// In a rotation the new key goes first; what the old one sealed is still good.
func TestSeveralKeys(t *testing.T) {
	sealed := keys.Seal(place, "map")
	rotated := seal.Keys{[]byte(second), []byte(first)}
	if got, old, err := rotated.Open(place, sealed); got != "map" || !old || err != nil {
		t.Errorf("Open = %q, %t, %v, want the map, sealed with an old key", got, old, err)
	}
	if _, old, err := rotated.Open(place, rotated.Seal(place, "map")); old || err != nil {
		t.Errorf("Open = %t, %v, want the first key", old, err)
	}
	if _, _, err := (seal.Keys{[]byte(second)}).Open(place, sealed); err == nil {
		t.Error("a seal of a removed key is accepted")
	}
}

func TestParse(t *testing.T) {
	got, err := seal.Parse([]byte("# keys\n\n  " + second + " \r\n" + first))
	if diff := cmp.Diff(seal.Keys{[]byte(second), []byte(first)}, got); diff != "" || err != nil {
		t.Errorf("Parse: %v, keys (-want +got):\n%s", err, diff)
	}
	for text, want := range map[string]string{
		"":                         "holds no key",
		"# none\n":                 "holds no key",
		first + "\nshort-s3cret\n": "line 2: want a key of at least 32",
		first + " s3cret":          "line 1: want a key of at least 32",
		strings.Repeat("é", 32):    "line 1: want a key of at least 32",
	} {
		if _, err := seal.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("Parse(%q) = %v, want %q and no secret", text, err, want)
		}
	}
}

// FuzzOpen: Open accepts nothing but what Seal has made.
func FuzzOpen(f *testing.F) {
	f.Add("group", "topic", 0, int64(5), keys.Seal(seal.Place{Group: "group", Topic: "topic", Offset: 5}, "tw1"))
	f.Add("", "", -1, int64(-1), "ts1")
	f.Fuzz(func(t *testing.T, group, topic string, partition int, offset int64, sealed string) {
		p := seal.Place{Group: group, Topic: topic, Partition: partition, Offset: offset}
		if metadata, _, err := keys.Open(p, sealed); err == nil && keys.Seal(p, metadata) != sealed {
			t.Errorf("Open accepts %q, which Seal does not make", sealed)
		}
		if got, old, err := keys.Open(p, keys.Seal(p, sealed)); got != sealed || old || err != nil {
			t.Errorf("Open(Seal(%q)) = %q, %t, %v", sealed, got, old, err)
		}
	})
}
