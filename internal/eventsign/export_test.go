package eventsign

// LineMessage is what the signature of a line covers, and the line's source.
func LineMessage(line []byte) ([]byte, string, error) {
	l, err := parseLine(line)
	return message(l.attrs, l.data), l.source, err
}
