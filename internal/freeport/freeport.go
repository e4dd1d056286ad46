// Package freeport finds free TCP ports of the loopback address for tests and
// for the programs that test. No service links it.
//
// A port is free when it is returned, not reserved: something must listen on it
// soon. Where a program can listen on port 0 and report its address, use that.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync/atomic"
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
		base := first + int((start+next.Add(step))%count)
		if free(base, offsets) {
			return base
		}
	}
	panic(fmt.Sprintf("no free port from %d to %d", first, first+count-1))
}

func free(base int, offsets []int) bool {
	for _, o := range offsets {
		l, err := net.Listen("tcp", address(base+o))
		if err != nil || l.Close() != nil {
			return false
		}
	}
	return true
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
