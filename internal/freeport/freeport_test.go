package freeport_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
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

// A port that is asked for after a base is none of the base's.
func TestPortsOfABaseAreItsOwn(t *testing.T) {
	base := freeport.Base()
	for range 1200 {
		switch port := freeport.Port(); port - base {
		case 0, 1, 2, 3, 1000, 1001, 1002, 1003, 1092:
			t.Fatalf("Port = %d, which belongs to the base %d", port, base)
		}
	}
}

// Another process that looks for a port does not find the ones of this.
func TestPortsOfOtherProcesses(t *testing.T) {
	if os.Getenv("FREEPORT_TAKEN") != "" {
		mine := freeport.Port()
		fmt.Printf("port %d\n", mine)
		return
	}
	taken := map[string]bool{}
	for range 2000 {
		taken[fmt.Sprint(freeport.Port())] = true
	}
	for range 20 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPortsOfOtherProcesses$")
		cmd.Env = append(os.Environ(), "FREEPORT_TAKEN=1")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(out), "port ")
		if port, _, _ := strings.Cut(rest, "\n"); port == "" || taken[port] {
			t.Errorf("another process was given port %q, which this one has", port)
		}
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
