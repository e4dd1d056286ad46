//go:build !linux

package main

import "syscall"

// child is a process in a group of its own. It outlives this one when this one
// is killed with SIGKILL: only Linux can prevent that.
func child() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
