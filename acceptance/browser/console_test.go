package browser

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/taskwire/taskwire/internal/stack"
)

var client = http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// curl creates a task by the first curl line of the README, as its reader would.
func curl(t *testing.T, s *stack.Stack) (id string) {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^    (curl -X POST http://localhost:8000/tasks (?:.*\\\n)*.*)$`).FindSubmatch(readme)
	if line == nil {
		t.Fatal("the README has no curl line that creates a task")
	}
	run := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(string(line[1]), "http://localhost:8000/", s.URL("taskapi"))) //nolint:gosec // our own README
	answer, err := run.Output()
	var task struct{ ID string }
	if err := errors.Join(err, json.Unmarshal(answer, &task)); err != nil || task.ID == "" {
		t.Fatalf("%s: %v: %s", line[1], err, answer)
	}
	return task.ID
}

// create is what curl would do.
func create(t *testing.T, s *stack.Stack, title string) (id string) {
	t.Helper()
	resp, err := client.Post(s.URL("taskapi")+"tasks", "application/json", strings.NewReader(`{"title":`+quoted(title)+`}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var task struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&task); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatalf("POST /tasks = %s, %v", resp.Status, err)
	}
	return task.ID
}

func change(t *testing.T, s *stack.Stack, id, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, s.URL("taskapi")+"tasks/"+id, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("PATCH = %s", resp.Status)
	}
}

// Somebody who has never seen the project, a terminal for one curl line and a browser:
// one change from curl to the verified audit entry; the notifier breaks, the page says
// why it waits; it is mended; a dead letter is delivered again.
func TestAStrangerFollowsOneChange(t *testing.T) {
	t.Parallel()
	s := system(t)
	b := open(t, s.URL("bridge"))
	b.visit("/")
	b.await("No event yet")
	b.look("01-flow-empty")
	id := curl(t, s)
	b.awaitThat(`location.pathname.startsWith("/console/event/")`) // it jumps there by itself
	b.await("notifications: attempt 1: 204, accepted")
	b.await("audit: attempt 1: 201, accepted")
	b.look("02-event")
	b.press("Find it in the audit log")
	b.awaitThat(`document.querySelector("h1").innerText === "Entry 1"`)
	b.await("not verified") // never good before anything was checked
	b.press("Verify")
	b.await("verified, with this server's own key")
	b.look("03-entry-verified")

	b.visit("/console/subscriptions/notifications")
	b.fill("[name=for]", "10m")
	b.press("Answer 503")
	b.await("is made to answer 503")
	create(t, s, "While the notifier is down")
	b.await("the sink answered 503")
	b.await("so far")
	b.look("04-why-it-waits")
	b.visit("/")
	b.await("attempt")
	b.look("05-flow-broken")
	b.visit("/console/subscriptions/notifications")
	b.press("Mend it now")
	b.await("Everything on the topic is delivered.")
	b.look("06-mended")

	b.fill("[name=for]", "10m")
	b.press("Answer 400")
	b.await("is made to answer 400")
	create(t, s, "Refused by the notifier")
	b.await("Lag\n0") // its dead letter is written
	b.press("Mend it now")
	b.awaitThat(`!document.querySelector("main").innerText.includes("Mend it now")`)
	b.visit("/console/deadletters")
	b.await("rejected 400")
	b.look("07-dead-letters")
	b.press("rejected 400")
	b.await("The sink refused the event")
	b.await("Refused by the notifier") // the payload
	b.look("08-dead-letter")
	b.press("Redrive this letter")
	b.await("None of them has newer events already delivered")
	b.look("09-redrive-check")
	b.press("Redrive 1 letter")
	b.awaitThat(`document.querySelector("#job .state").innerText.includes("done")`)
	b.await("Delivered\n1")
	b.look("10-redriven")
	b.press("Back to the dead letters")
	b.await("No dead letter")

	change(t, s, id, `{"status":"in_progress"}`)
	change(t, s, id, `{"status":"completed","title":"Write capstone lesson, for good"}`)
	b.visit("/console/audit/tasks/" + id)
	b.await("Version 3")
	b.await("no gap")
	b.look("11-history")
	b.visit("/console/audit")
	b.await("The signed checkpoint covers")
	b.look("12-audit")
	b.visit("/")
	b.await("redriven")
	b.look("13-flow")
}

func TestTheOtherPages(t *testing.T) {
	t.Parallel()
	s := system(t)
	b := open(t, s.URL("bridge"))
	b.visit("/console/try")
	b.await("A task")
	b.press("Create a task")
	b.await("What becomes of it")
	b.await("201 in") // the auditor took it
	b.look("20-try")
	b.press("In the flow")
	b.await("task.created")
	b.visit("/console/try")
	b.press("Not a CloudEvent")
	b.await("400")
	b.look("21-try-refused")
	b.visit("/console/subscriptions")
	b.await("Everything on the topic is delivered.")
	b.look("22-subscriptions")
	b.press("audit")
	b.await("Settings in force")
	b.fill("[name=event]", `{"specversion":"1.0","id":"1","source":"s","type":"order.placed"}`)
	b.press("Explain")
	b.await("Yes, it is delivered.")
	b.fill("[name=reason]", "the auditor moves")
	b.press("Pause audit")
	b.await("paused it")
	b.await("the auditor moves")
	b.look("23-paused")
	b.press("Resume audit")
	b.await("Everything on the topic is delivered.")
	b.visit("/console/deadletters")
	b.await("No dead letter")
	b.look("24-no-letters")
	b.visit("/console/nothing")
	b.await("There is no such page.")
	b.look("25-not-found")
}
