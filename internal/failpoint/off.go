//go:build !failpoint

package failpoint

import "net/http"

// Hit is a point where the process may end.
func Hit(string) {}

// HitAfter is Hit, and does half of a step before the end.
func HitAfter(string, func()) {}

// Answers adds two points to the 2xx of every method but GET: before it, and after
// half of its body.
func Answers(_, _ string, h http.Handler) http.Handler { return h }

// HalfWrites adds a point in the middle of each write to a connection.
func HalfWrites(_ string, d dial) dial { return d }

// Kafka adds points after whole requests: R2 after a produce, B4 after a commit.
func Kafka(d dial) dial { return d }
