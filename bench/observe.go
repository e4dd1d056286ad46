package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// What Linux and the services themselves tell about a running process.

// cpuOf is the seconds of CPU that a process has used, in clock ticks of 10 ms.
func cpuOf(pid int) (float64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return float64(user+system) / 100, errors.Join(err1, err2)
}

// readBy is the bytes that a process has read, of connections too.
func readBy(pid int) (int64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(stat), "\n")
	return strconv.ParseInt(strings.TrimPrefix(first, "rchar: "), 10, 64)
}

// memory is a line of the process's status in bytes: VmRSS is what it has now,
// RssAnon the part that is not backed by files, VmHWM the most it has had. The
// figure in its exit status would be wrong: it begins with this program's own,
// from which it was forked.
func (p *proc) memory(name string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(kib), " kB"))
			return float64(n << 10), err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", p.Pid(), name)
}

// connections counts the connections of a process to addr.
func connections(pid int, addr string) (n int, err error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return 0, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return 0, err
	}
	inodes := map[string]bool{}
	for _, file := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(table)) {
			const remote, state, inode, established = 2, 3, 9, "01"
			f := strings.Fields(line)
			if len(f) > inode && f[state] == established && strings.HasSuffix(f[remote], fmt.Sprintf(":%04X", number)) {
				inodes["socket:["+f[inode]+"]"] = true
			}
		}
	}
	descriptors, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, d := range descriptors {
		if target, err := os.Readlink(d); err == nil && inodes[target] { // it may have been closed just now
			n++
		}
	}
	return n, err
}

// get reads a page of a service.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return body, err
}

// metric reads one metric, written with its labels, from the operator port.
func (p *proc) metric(ctx context.Context, name string) (float64, error) {
	page, err := get(ctx, p.ops+"/metrics")
	if err != nil {
		return 0, err
	}
	for s := bufio.NewScanner(bytes.NewReader(page)); s.Scan(); {
		if value, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("%s/metrics has no %s", p.ops, name)
}
