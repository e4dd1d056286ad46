package ledger

// InFlight is how many entries are in flight.
func InFlight(l *Ledger) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inFlight)
}

// ValidJSON is the test's door to the own JSON checker.
var ValidJSON = validJSON
