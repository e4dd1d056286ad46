package app

import "reflect"

// Parse reads the text of a configuration file.
func Parse(text []byte) (subscriptions []Subscription, wrong []string, err error) {
	f, wrong, err := parse("bridge.yaml", text)
	return f.Subscriptions, wrong, err
}

// FileType is what a configuration file is read into.
var FileType = reflect.TypeFor[file]()

// Filled is the subscription with defaults.
func (s Subscription) Filled(topic string) Subscription { return s.filled(topic) }
