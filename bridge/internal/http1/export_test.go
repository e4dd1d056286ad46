package http1

// Quiet is quiet, for tests that wait for bytes to arrive.
var Quiet = quiet
