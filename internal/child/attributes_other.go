//go:build !linux

package child

import "syscall"

// The child stays in the process group of this program, so that Ctrl-C ends
// both: nothing else would end the child of a test that is interrupted.
func attributes() *syscall.SysProcAttr { return nil }
