package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testProgram is a shell that drains for a moment on SIGTERM, and its log.
func testProgram(t *testing.T) (p *program, log func() string) {
	t.Helper()
	dir := t.TempDir()
	const script = `trap 'echo drain; sleep 0.2; echo end; exit' TERM; echo begin; while :; do sleep 0.02; done`
	p = &program{name: "shell", path: "/bin/sh", args: []string{"-c", script}, dir: dir,
		env: func(int) ([]string, error) { return []string{"PATH=" + os.Getenv("PATH")}, nil }}
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Down(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	return p, func() string {
		text, err := os.ReadFile(filepath.Join(dir, "shell.log"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

// await polls the log of another process until it begins with want.
func await(t *testing.T, log func() string, want string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.HasPrefix(log(), want); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) || !strings.HasPrefix(want, log()) {
			t.Fatalf("the log is %q, want %q", log(), want)
		}
	}
}

func TestAProgramThatEndsIsStartedAgain(t *testing.T) {
	p, log := testProgram(t)
	await(t, log, "begin\n")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, log, "begin\nbegin\n")
	if p.started() != 2 || p.unexpected != 1 {
		t.Errorf("%d starts, %d unexpected exits, want 2 and 1", p.started(), p.unexpected)
	}
	if err := p.Down(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if p.pid() != 0 || log() != "begin\nbegin\ndrain\nend\n" {
		t.Errorf("after Down: process %d, log %q", p.pid(), log())
	}
}

// Two processes with the same ports and data would be a fault of the run.
func TestUpWaitsForTheDrain(t *testing.T) {
	p, log := testProgram(t)
	await(t, log, "begin\n")
	down := make(chan error)
	go func() { down <- p.Down(syscall.SIGTERM) }()
	await(t, log, "begin\ndrain\n") // Down has its turn
	if err := p.Up(); err != nil {
		t.Fatal(err)
	}
	if err := <-down; err != nil {
		t.Fatal(err)
	}
	await(t, log, "begin\ndrain\nend\nbegin\n")
}
