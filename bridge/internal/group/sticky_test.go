package group

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestStick plays rebalances of members that come and go at any time: no partition is ever
// given to one member while another works on it, the group settles after one more rebalance,
// then everything is shared out evenly, and no more has moved than that takes.
func TestStick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(t, "partitions")
		works := map[string][]int{} // what each member works on
		generation := int32(0)
		rebalance := func(protocol string) (moving int) {
			generation++
			var members []subscriber
			for id, owned := range works {
				members = append(members, subscriber{id, "", subscription{[]string{"a"}, map[string][]int{"a": owned}, generation - 1}})
			}
			before := owners(members, "a")
			result := plan(protocol, members, map[string]int{"a": n})
			if len(result) != len(works) {
				t.Fatalf("%d members in the plan of %d", len(result), len(works))
			}
			given := map[int]string{}
			for id, topics := range result {
				for _, p := range topics["a"] {
					if owner, claimed := before[p]; claimed && owner != id {
						t.Fatalf("%d given to %s, %s works on it", p, id, owner)
					}
					if given[p] != "" || p >= n {
						t.Fatalf("%d given to %s and %q", p, id, given[p])
					}
					given[p] = id
				}
				for _, p := range works[id] {
					if !slices.Contains(topics["a"], p) {
						moving++
					}
				}
				works[id] = topics["a"] // what was revoked is drained before the next join
			}
			return moving
		}
		for step := range rapid.IntRange(1, 12).Draw(t, "steps") {
			if ids := slices.Sorted(maps.Keys(works)); len(ids) > 0 && rapid.Bool().Draw(t, "leaves") {
				delete(works, rapid.SampledFrom(ids).Draw(t, "who"))
			} else {
				works[fmt.Sprint("m", step)] = nil
			}
			protocol := rapid.SampledFrom([]string{protocolSticky, protocolSticky, protocolRange}).Draw(t, "protocol")
			if len(works) == 0 {
				continue
			}
			share := (n + len(works) - 1) / len(works)
			over := 0
			for _, owned := range works {
				over += max(0, len(owned)-n/len(works))
			}
			moved := rebalance(protocol)
			if protocol == protocolSticky && moved > over {
				t.Fatalf("%d partitions moved, at most %d are more than a share", moved, over)
			}
			if rapid.Bool().Draw(t, "interrupted") {
				continue
			}
			rebalance(protocol)
			all := 0
			for id, owned := range works {
				all += len(owned)
				if len(owned) > share {
					t.Fatalf("%s has %v of %d partitions, %d members", id, owned, n, len(works))
				}
			}
			if all != n {
				t.Fatalf("%d of %d partitions given after the second rebalance", all, n)
			}
			if moved := rebalance(protocol); moved > 0 {
				t.Fatalf("%d partitions moved without a reason", moved)
			}
		}
	})
}
