package freeport_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/taskwire/taskwire/internal/freeport"
)

func TestPortsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		addr := freeport.Addr()
		if seen[addr] {
			t.Fatalf("Addr returned %s twice", addr)
		}
		seen[addr] = true
	}
}

func TestBaseSkipsTakenPorts(t *testing.T) {
	// A listener on one port of the next stack moves the base past it.
	taken := freeport.Base() + 4
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", taken+1092))
	if err != nil {
		t.Skipf("another program has the port: %v", err)
	}
	defer l.Close()
	if base := freeport.Base(); base == taken {
		t.Errorf("Base = %d, although port %d is taken", base, taken+1092)
	}
}
