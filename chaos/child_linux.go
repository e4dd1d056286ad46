package main

import "syscall"

// child is a process in a group of its own that dies with this one, however
// this one dies.
func child() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
