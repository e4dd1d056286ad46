package main

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// need is what this run must have done to prove anything.
func (y *system) need() map[string]int {
	if y.Need != nil {
		return y.Need
	}
	n := map[string]int{"acks": y.Acks, "snapshots": 1, "commits": 1, "2xx:create": 1, "2xx:update": 1, "2xx:complete": 1,
		"2xx:shared-update": 1, "2xx:shared-complete": 1, "4xx:refused-body": 1, "4xx:refused-etag": 1, "4xx:refused-key": 1}
	if y.Acks == 0 {
		n["acks"] = int(2 * y.Duration.Seconds())
	}
	if y.registry != nil {
		n["in-avro"] = 1
	}
	plan, _ := y.plan()
	if y.Duration < time.Minute || len(plan) == 0 {
		return n
	}
	n["rate-before"] = max(1, int(y.Rate*float64(y.Workers))/20)
	n["info"], n["redeliveries"], n["rebalances"], n["notices"] = 1, 1, 1, 1
	for _, kind := range plan {
		n["effective:"+kind], n["recovered:"+kind] = 1, 1
	}
	if slices.Contains(plan, "sink") && strings.Contains(y.Answers, "cut-after") {
		n["dedup-hits"] = 1
	}
	maps.Copy(n, y.needEach(plan))
	if slices.Contains(plan, "intruder") {
		n["forged-refused"] = 1
	}
	if slices.Contains(plan, "redrive") {
		n["redriven"] = 1
	}
	if slices.Contains(plan, "pause") {
		n["paused-restarts"] = 1
	}
	if slices.Contains(plan, "registry") {
		n["registry-unread"] = 1
	}
	if slices.Contains(plan, "schemas") {
		n["schemas-lost"] = 1
	}
	if slices.Contains(plan, "disk") {
		n["refused-full"] = 1
	}
	if !slices.ContainsFunc(proxyFaults, func(kind string) bool { return !slices.Contains(plan, kind) }) {
		for _, pair := range y.pairs() {
			n["pair:"+pair] = 1
		}
	}
	return n
}

// notInjected names the faults that this machine cannot inject, and why.
func (y *system) notInjected() []string {
	var all []string
	_, left := y.plan()
	for _, kind := range slices.Sorted(maps.Keys(left)) {
		all = append(all, kind+": "+left[kind])
	}
	return all
}
