package group

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func TestAssign(t *testing.T) {
	one := []string{"a"}
	cases := map[string]struct {
		members    []subscriber
		partitions map[string]int
		want       string
	}{
		"one member":       {[]subscriber{wants("m", "", one)}, map[string]int{"a": 3}, "m:a[0 1 2]"},
		"the first more":   {[]subscriber{wants("n", "", one), wants("m", "", one)}, map[string]int{"a": 5}, "m:a[0 1 2] n:a[3 4]"},
		"too many members": {[]subscriber{wants("o", "", one), wants("n", "", one), wants("m", "", one)}, map[string]int{"a": 2}, "m:a[0] n:a[1] o:"},
		"static first":     {[]subscriber{wants("a", "", one), wants("b", "y", one), wants("c", "x", one)}, map[string]int{"a": 4}, "a:a[3] b:a[2] c:a[0 1]"},
		"other topics": {[]subscriber{wants("m", "", []string{"a", "b"}), wants("n", "", []string{"b"})},
			map[string]int{"a": 2, "b": 3}, "m:a[0 1]b[0 1] n:b[2]"},
		"no topic":  {[]subscriber{wants("m", "", one)}, map[string]int{}, "m:"},
		"no member": {nil, map[string]int{"a": 1}, ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := plain(assign(c.members, c.partitions)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func wants(id, instance string, topics []string) subscriber {
	return subscriber{id, instance, subscription{topics: topics}}
}

func plain(plan map[string]map[string][]int) string {
	s := ""
	for _, id := range slices.Sorted(maps.Keys(plan)) {
		s += id + ":"
		for _, topic := range slices.Sorted(maps.Keys(plan[id])) {
			s += fmt.Sprint(topic, plan[id][topic])
		}
		s += " "
	}
	return s[:max(0, len(s)-1)]
}

// TestWireForms: another implementation can read what this package writes, and this
// package reads the newest versions of the other.
func TestWireForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		topic := rapid.StringMatching(`[a-z.-]{1,30}`).Draw(t, "topic")
		ids := rapid.SliceOfDistinct(rapid.IntRange(0, 1000), rapid.ID[int]).Draw(t, "ids")
		slices.Sort(ids)

		var meta kmsg.ConsumerMemberMetadata
		generation := rapid.Int32Range(0, 9).Draw(t, "generation")
		if err := meta.ReadFrom(encodeSubscription(topic, ids, generation)); err != nil || !slices.Equal(meta.Topics, []string{topic}) {
			t.Fatalf("subscription read as %+v, %v", meta, err)
		}
		if len(ids) > 0 {
			if o := meta.OwnedPartitions; len(o) != 1 || o[0].Topic != topic || len(o[0].Partitions) != len(ids) || meta.Generation != generation {
				t.Fatalf("owned partitions read as %+v", meta)
			}
		}
		meta.Version = rapid.Int16Range(0, 3).Draw(t, "version")
		meta.Topics = append(meta.Topics, "other")
		meta.UserData = rapid.SliceOf(rapid.Byte()).Draw(t, "user data")
		s, err := decodeSubscription(meta.AppendTo(nil))
		if err != nil || !slices.Equal(s.topics, meta.Topics) {
			t.Fatalf("subscription %+v, %v", s, err)
		}
		if meta.Version >= 1 && !slices.Equal(s.owned[topic], ids) || meta.Version >= 2 && len(ids) > 0 && s.generation != generation {
			t.Fatalf("version %d read as %+v, want %v of generation %d", meta.Version, s, ids, generation)
		}

		var plan kmsg.ConsumerMemberAssignment
		if err := plan.ReadFrom(encodeAssignment(map[string][]int{topic: ids})); err != nil || len(plan.Topics) != 1 {
			t.Fatalf("assignment read as %+v, %v", plan, err)
		}
		plan.Topics = append(plan.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: "other", Partitions: []int32{1, 2}})
		if got, marked, err := decodeAssignment(plan.AppendTo(nil), topic); err != nil || !slices.Equal(got, ids) || !marked {
			t.Fatalf("partitions %v, marked %t, %v, want %v", got, marked, err, ids)
		}
		plan.UserData = nil
		if _, marked, err := decodeAssignment(plan.AppendTo(nil), topic); err != nil || marked {
			t.Fatalf("another leader's plan: marked %t, %v", marked, err)
		}
	})
}

// FuzzMemberBytes: bytes from other members cause neither a panic nor a large allocation.
func FuzzMemberBytes(f *testing.F) {
	f.Add(encodeSubscription("events", nil, -1))
	f.Add(encodeSubscription("events", []int{0, 7}, 3))
	f.Add(encodeAssignment(map[string][]int{"events": {0, 1}}))
	f.Add([]byte{0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 1, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeSubscription(b); err == nil && len(s.topics)+len(s.owned["events"]) > len(b)/2 {
			t.Errorf("%d topics and %d partitions from %d bytes", len(s.topics), len(s.owned["events"]), len(b))
		}
		if ids, _, err := decodeAssignment(b, "events"); err == nil && len(ids) > len(b)/4 {
			t.Errorf("%d partitions from %d bytes", len(ids), len(b))
		}
	})
}
