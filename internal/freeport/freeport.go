// Package freeport finds free TCP ports of the loopback address for tests and
// for the programs that test. No service links it.
//
// A port that is returned is this process's until it ends, as far as other users
// of this package are concerned; a program that does not use it may still take
// the port. Where a program can listen on port 0 and report its address, use that.
package freeport

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// The range is below the ports that systems use for outgoing connections, so
// that a service finds its port still free when it restarts.
const first, count = 10_000, 20_000

// A random start keeps processes that run at the same time apart; counting up
// from it returns a port only after all the others.
var (
	start = rand.Uint32N(count)
	next  atomic.Uint32
)

// Port returns a free port.
func Port() int { return find(0) }

// Addr returns a free address: 127.0.0.1 and a port.
func Addr() string { return address(Port()) }

// Base returns a port base for a whole stack, as dev -port-base takes it: the
// public ports, the operator ports and the broker's are free.
func Base() int { return find(0, 1, 2, 3, 1000, 1001, 1002, 1003, 1092) }

// find panics when there is no such port: no test can run on that machine.
func find(offsets ...int) int {
	step := uint32(min(len(offsets), 4)) // past the public ports
	for range count {
		base := first + int((start+next.Add(step)-step)%count)
		if free(base, offsets) {
			return base
		}
	}
	panic(fmt.Sprintf("no free port from %d to %d", first, first+count-1))
}

func free(base int, offsets []int) bool {
	for _, o := range offsets {
		if !reserve(base + o) {
			return false
		}
		l, err := net.Listen("tcp", address(base+o))
		if err != nil || l.Close() != nil {
			return false
		}
	}
	return true
}

// reservations is a file of which each process locks the bytes at the numbers of
// its ports. Test programs run side by side: between the look at a port and the
// start of what listens on it, another could find it free as well. The locks end
// with the process, so the file stays open.
var reservations = sync.OnceValue(func() *os.File {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("taskwire-ports-%d", os.Getuid())), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		panic(fmt.Sprintf("reserve a port: %v", err))
	}
	return f
})

// mine are the ports of this process: its own locks do not keep it out.
var mine sync.Map

func reserve(port int) bool {
	if _, taken := mine.LoadOrStore(port, true); taken {
		return false
	}
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: int64(port), Len: 1}
	return syscall.FcntlFlock(reservations().Fd(), syscall.F_SETLK, &lock) == nil
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
