package group

import (
	"cmp"
	"slices"
)

// plan assigns the partitions of each topic by the protocol that the coordinator chose,
// and gives nobody what another member works on: that member gives it up first, joins
// again, and the next plan gives it away. Each member has an entry in the result.
func plan(protocol string, members []subscriber, partitions map[string]int) map[string]map[string][]int {
	assigner := assign
	if protocol == protocolSticky {
		assigner = stick
	}
	return withhold(assigner(members, partitions), members)
}

// stick distributes the partitions of each topic evenly among the members that subscribe
// to it, and moves no more of them than that takes.
func stick(members []subscriber, partitions map[string]int) map[string]map[string][]int {
	members = slices.Clone(members)
	slices.SortFunc(members, compare)
	result := make(map[string]map[string][]int, len(members))
	byTopic := make(map[string][]string)
	for _, m := range members {
		result[m.id] = make(map[string][]int)
		for _, topic := range m.topics {
			byTopic[topic] = append(byTopic[topic], m.id)
		}
	}
	for topic, ids := range byTopic {
		owned := map[string][]int{}
		for p, id := range owners(members, topic) {
			if p < partitions[topic] && slices.Contains(ids, id) {
				owned[id] = append(owned[id], p)
			}
		}
		// Who has most keeps the remainder of the division, so that it does not move.
		slices.SortStableFunc(ids, func(a, b string) int { return cmp.Compare(len(owned[b]), len(owned[a])) })
		share, more := partitions[topic]/len(ids), partitions[topic]%len(ids)
		quota := func(i int) int {
			if i < more {
				return share + 1
			}
			return share
		}
		taken := make([]bool, partitions[topic])
		for i, id := range ids {
			slices.Sort(owned[id])
			kept := owned[id][:min(len(owned[id]), quota(i))]
			for _, p := range kept {
				taken[p] = true
			}
			if len(kept) > 0 {
				result[id][topic] = slices.Clone(kept)
			}
		}
		next := 0
		for i, id := range ids {
			for len(result[id][topic]) < quota(i) {
				for taken[next] {
					next++
				}
				taken[next] = true
				result[id][topic] = append(result[id][topic], next)
			}
		}
	}
	return result
}

// owners returns who works on each partition of a topic. Two members may claim the same
// one only if one of them has missed that it was removed from the group: then the younger
// claim counts.
func owners(members []subscriber, topic string) map[int]string {
	owner := map[int]string{}
	since := map[int]int32{}
	for _, m := range members {
		for _, p := range m.owned[topic] {
			if _, claimed := owner[p]; !claimed || m.generation > since[p] {
				owner[p], since[p] = m.id, m.generation
			}
		}
	}
	return owner
}

func withhold(result map[string]map[string][]int, members []subscriber) map[string]map[string][]int {
	byTopic := map[string]map[int]string{}
	for id, topics := range result {
		for topic, ids := range topics {
			if byTopic[topic] == nil {
				byTopic[topic] = owners(members, topic)
			}
			topics[topic] = slices.DeleteFunc(ids, func(p int) bool {
				owner, claimed := byTopic[topic][p]
				return claimed && owner != id
			})
		}
	}
	return result
}
