package check

import (
	"fmt"
	"slices"
)

// commits checks that every offset below a committed one was answered before the commit.
func (j *judge) commits(parts map[int]*partition) error {
	latest := map[int][]int64{} // 2xx of the offsets up to each
	for n, p := range parts {
		upTo := make([]int64, len(p.offsets))
		var high int64
		for i, at := range p.ackedAt {
			high = max(high, at)
			upTo[i] = high
		}
		latest[n] = upTo
	}
	return each(j.dir, "commits.jsonl", func(c Commit) error {
		j.rep.Work["commits"]++
		if c.Final && c.Offset < c.Log {
			j.find(Finding{Rule: "STUCK", Why: fmt.Sprintf("lag: partition %d is committed to %d of %d", c.Partition, c.Offset, c.Log)})
		}
		p := parts[c.Partition]
		if p == nil {
			return nil
		}
		below, _ := slices.BinarySearch(p.offsets, c.Offset)
		if below == 0 || latest[c.Partition][below-1] <= c.At {
			return nil
		}
		if j.rep.Violations["HOLE"] > maxFindings { // every later commit shows the same hole
			return nil
		}
		hole := slices.IndexFunc(p.ackedAt[:below], func(at int64) bool { return at > c.At })
		j.find(Finding{Rule: "HOLE", Why: fmt.Sprintf("commit: partition %d was committed to %d before offset %d had a 2xx", c.Partition, c.Offset, p.offsets[hole])})
		return nil
	})
}
