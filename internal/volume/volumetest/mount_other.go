//go:build !linux

package volumetest

import "testing"

// mounts: none here without tools that the system may lack.
func mounts(*testing.T) []func(*testing.T) Volume { return nil }
