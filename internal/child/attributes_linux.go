package child

import "syscall"

// The process group of its own keeps Ctrl-C away from the child. The kernel
// sends Pdeathsig when the thread that started the child ends. Go
// keeps its threads, unless a goroutine ends while it is locked to one:
// callers of Start must not be.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
