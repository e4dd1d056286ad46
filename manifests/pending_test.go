package manifests_test

import "slices"

// pending are variables that the manifests set and that a program of this tree
// may not read yet. A program that reads one is held to it as to any other.
var pending = map[string][]string{"bridge": {"BRIDGE_STATE_KEY_FILE"}}

// unregistered are metrics of the alerts that no program of this tree may have yet.
var unregistered = []string{"taskwire_bridge_unsealed_offsets_total"}

// unread reports whether the program does not read the variable yet.
func unread(program, name string) bool {
	if !slices.Contains(pending[program], name) {
		return false
	}
	asked := false
	_, _ = read[program](func(key string) (string, bool) {
		asked = asked || key == name
		return "", false
	})
	return !asked
}
