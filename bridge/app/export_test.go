package app

// Parse reads the text of a configuration file.
func Parse(text []byte) (subscriptions []Subscription, wrong []string, err error) {
	f, wrong, err := parse("bridge.yaml", text)
	return f.Subscriptions, wrong, err
}
