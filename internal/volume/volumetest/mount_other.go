//go:build !linux

package volumetest

import "testing"

// mounts: none here; other systems need tools that may be missing.
func mounts(*testing.T) []func(*testing.T) Volume { return nil }
