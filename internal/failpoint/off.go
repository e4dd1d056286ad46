//go:build !failpoint

package failpoint

import "net/http"

// Hit is where a process may be made to end.
func Hit(string) {}

// HitAfter is Hit that does half of a step before.
func HitAfter(string, func()) {}

// Answers puts two points around the 2xx of whatever is not a GET: before it, and
// after half of its body.
func Answers(_, _ string, h http.Handler) http.Handler { return h }

// HalfWrites puts a point into the middle of what is written to a connection.
func HalfWrites(_ string, d dial) dial { return d }

// Kafka puts points behind requests that were sent whole: R2 a produce, B4 a commit.
func Kafka(d dial) dial { return d }
