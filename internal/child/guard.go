package child

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Guard is a shell that outlives this process just long enough to end another
// one and to remove its scratch folder: the pipe that it reads closes when this
// process ends, even by SIGKILL. No goroutine waits for either.
type Guard struct {
	shell *exec.Cmd
	pipe  *os.File
}

// The ten seconds are for a process that cleans up when it gets the first signal.
const guardScript = `trap '' INT TERM HUP; while read -r _; do :; done
kill -CONT "$1"; kill -"$3" "$1"; i=0; while kill -0 "$1" && [ "$3" != KILL ] && [ $i -lt 100 ]; do i=$((i+1)); sleep 0.1; done; kill -KILL "$1"
[ -z "$2" ] || rm -rf "$2"`

// NewGuard guards the process pid. first is the signal that ends it, SIGKILL
// follows; scratch, when it is not empty, is removed after that.
func NewGuard(pid int, scratch string, first syscall.Signal) (*Guard, error) {
	name := map[syscall.Signal]string{syscall.SIGKILL: "KILL", syscall.SIGQUIT: "QUIT"}[first]
	if name == "" {
		return nil, fmt.Errorf("guard a process with %v: want SIGKILL or SIGQUIT", first)
	}
	in, pipe, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("guard a process: %w", err)
	}
	defer in.Close()
	shell := exec.Command("sh", "-c", strings.TrimSpace(guardScript), "sh", strconv.Itoa(pid), scratch, name)
	shell.Stdin = in
	shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := shell.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("guard a process: %w", err), pipe.Close())
	}
	return &Guard{shell, pipe}, nil
}

// Release ends the guard after its process, whose pid may soon belong to another.
func (g *Guard) Release() {
	_ = g.shell.Process.Kill()
	_ = g.shell.Wait()
	_ = g.pipe.Close()
}
