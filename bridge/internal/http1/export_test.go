package http1

// Quiet is quiet, for tests that wait for bytes to arrive.
var Quiet = quiet

// Parse is parse.
func Parse(b []byte) (status, length, size int, accepts string, ok bool) {
	a, ok := parse(b)
	return a.status, a.length, a.size, string(a.accepts), ok
}
