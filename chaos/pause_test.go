package main

import "testing"

func TestOnlyALaterBridgeBreaksAPause(t *testing.T) {
	known := starts{"bridge-1": 2, "bridge-2": 1}
	for via, want := range map[string]bool{"bridge-1.1": false, "bridge-1.2": false, "bridge-1.3": true, "bridge-2.2": true, "bridge-3.1": true, "": false, "intruder": false} {
		if got := known.breaks(via); got != want {
			t.Errorf("%q breaks the pause = %v, want %v", via, got, want)
		}
	}
}
