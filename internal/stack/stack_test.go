package stack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/taskwire/taskwire/internal/apptest"
	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func create(t *testing.T, s *stack.Stack, title string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(s.URL("taskapi")+"tasks", "application/json", strings.NewReader(`{"title":"`+title+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST /tasks = %s, want 201", resp.Status)
	}
}

func awaitEntries(t *testing.T, s *stack.Stack, want int) {
	t.Helper()
	apptest.Await(t, fmt.Sprintf("the audit log has %d lines", want), func() bool {
		text, err := os.ReadFile(s.AuditLog())
		return err == nil && bytes.Count(text, []byte("\n")) == want
	})
}

func TestAServiceComesBackAtItsAddress(t *testing.T) {
	s, err := stack.Start(t.Context(), stack.Options{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	create(t, s, "one")
	awaitEntries(t, s, 1)
	for n, name := range []string{"taskapi", "bridge", "notifier", "auditor", stack.Broker} {
		before := s.URL("taskapi")
		if err := s.Restart(t.Context(), name); err != nil {
			t.Fatalf("restart %s: %v", name, err)
		}
		if s.URL("taskapi") != before {
			t.Errorf("the task API's address changed from %s to %s", before, s.URL("taskapi"))
		}
		create(t, s, "after "+name)
		awaitEntries(t, s, n+2)
	}
}

func TestRunDrainsWhenItsContextEnds(t *testing.T) {
	dir := t.TempDir()
	s, err := stack.Start(t.Context(), stack.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatalf("Run = %v, want nil", err)
	}
	// Its folder is free again, and what was acknowledged is in it.
	if s, err = stack.Start(t.Context(), stack.Options{DataDir: dir}); err != nil {
		t.Fatal(err)
	}
	awaitEntries(t, s, 1)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestWrongSettingsOfAllServicesAreNamedTogether(t *testing.T) {
	dir := t.TempDir()
	_, err := stack.Start(t.Context(), stack.Options{DataDir: dir, Env: env.Map(map[string]string{
		"EVENT_MODE": "fancy", "KAFKA_CREATE_TOPICS": "maybe", "SHUTDOWN_GRACE": "soon",
	})})
	var wrong *env.Error
	if !errors.As(err, &wrong) || len(wrong.Mistakes) != 3 {
		t.Fatalf("Start = %v, want an *env.Error with 3 mistakes", err)
	}
}

func TestOneStackPerFolder(t *testing.T) {
	dir := t.TempDir()
	s, err := stack.Open(stack.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stack.Open(stack.Options{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second Open = %v, want an error with \"in use\"", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestAFolderThatOthersMayWriteIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := stack.Open(stack.Options{DataDir: dir}); err == nil || !strings.Contains(err.Error(), "chmod o-w "+dir) {
		t.Errorf("Open = %v, want the command that helps", err)
	}
}
