//go:build !linux

package child

import "syscall"

// A child outlives a program that is killed with SIGKILL: only Linux can
// prevent that.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
