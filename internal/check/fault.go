package check

import (
	"cmp"
	"slices"
)

// window is a time in which something was broken.
type window struct{ from, to int64 }

func (j *judge) faults() error {
	all := map[string][]window{}
	err := each(j.dir, "faults.jsonl", func(f Fault) error {
		all[f.Kind] = append(all[f.Kind], window{f.At, f.Healed})
		s := j.rep.Faults[f.Kind]
		s.Planned++
		if f.Error == "" {
			s.Injected++
			if f.InFlight > 0 {
				s.Effective++
			}
			if f.Pair != "" {
				j.rep.Pairs[f.Pair]++
			}
		}
		if f.Healed > 0 {
			s.Healed++
		}
		if f.Recovered > 0 {
			s.Recovered++
			s.times = append(s.times, f.Recovered-f.Healed)
		}
		j.rep.Faults[f.Kind] = s
		return nil
	})
	j.rates(all)
	return err
}

// rates computes acknowledgements per second with and without faults.
func (j *judge) rates(broken map[string][]window) {
	slices.Sort(j.acks)
	if len(j.acks) == 0 {
		return
	}
	first, last := j.firstInvoke, j.acks[len(j.acks)-1]
	var all []window
	for kind, w := range broken {
		s := j.rep.Faults[kind]
		s.Rate = j.rate(w, last)
		j.rep.Faults[kind] = s
		all = append(all, w...)
	}
	slices.SortFunc(all, func(a, b window) int { return cmp.Compare(a.from, b.from) })
	between, at := []window{}, first
	for _, w := range all {
		if w.from > at {
			between = append(between, window{at, w.from})
		}
		at = max(at, w.to)
	}
	between = append(between, window{at, last})
	j.rep.Rate.Before, j.rep.Rate.During, j.rep.Rate.After = j.rate(between[:1], last), j.rate(all, last), j.rate(between[1:], last)
}

// rate returns acknowledgements per second in the windows, which may overlap.
func (j *judge) rate(windows []window, last int64) float64 {
	windows = slices.Clone(windows)
	slices.SortFunc(windows, func(a, b window) int { return cmp.Compare(a.from, b.from) })
	var n int
	var long, at int64
	for _, w := range windows {
		from, to := max(w.from, at), min(w.to, last)
		if to <= from {
			continue
		}
		low, _ := slices.BinarySearch(j.acks, from)
		high, _ := slices.BinarySearch(j.acks, to)
		n, long, at = n+high-low, long+to-from, to
	}
	return float64(n) / max(1e-9, float64(long)/1e9)
}
