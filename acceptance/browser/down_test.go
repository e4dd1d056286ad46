package browser

import (
	"testing"

	"github.com/taskwire/taskwire/internal/stack"
)

// Each page says what does not answer, says nothing good of it, and goes on by itself.
func TestWhatIsDown(t *testing.T) {
	t.Parallel()
	s := system(t)
	stop := func(name string) {
		t.Helper()
		if err := s.Stop(name); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, s.URL("bridge"))
	id := create(t, s, "While all is well")
	b.visit("/console/audit")
	b.await("covers 1 entry")
	stop("auditor")
	b.visit("/console/audit")
	b.await("The auditor does not answer")
	b.shot("70-no-auditor")
	b.visit("/console/audit/tasks/" + id)
	b.await("The auditor does not answer")
	stop("taskapi")
	b.visit("/console/try")
	b.press("Create a task")
	b.await("The Task API does not answer")
	b.shot("71-no-taskapi")
	b.visit("/")
	b.await("task.created")
	stop(stack.Broker)
	b.await("the brokers do not answer")
	b.look("72-no-brokers")
	if says := b.text(); containsAny(says, "up to date", "is delivered") {
		t.Errorf("without brokers it says\n%s", says)
	}
	for _, path := range []string{"/console/deadletters", "/console/event/task-events/0/0", "/console/subscriptions/audit"} {
		b.visit(path)
		b.shot("73-no-brokers")
		if says := b.text(); containsAny(says, "No dead letter", "up to date", "is delivered") || len(says) < 60 {
			t.Errorf("%s without brokers says\n%s", path, says)
		}
	}
	stop("bridge")
	b.await("The bridge does not answer")
	b.awaitThat(`document.querySelector("#live").innerText === "Not live"`)
	b.shot("74-no-bridge")
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.awaitThat(`document.querySelector("#connection").hidden && document.querySelector("#live").innerText === "Live"`)
	b.await("Everything on the topic is delivered.")
}
