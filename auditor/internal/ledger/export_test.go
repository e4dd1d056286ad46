package ledger

// InFlight is the number of entries in flight.
func InFlight(l *Ledger) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.inFlight)
}

// ValidJSON is validJSON for tests outside the package.
var ValidJSON = validJSON
