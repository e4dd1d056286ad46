package pgledger_test

import (
	"errors"
	"testing"

	"github.com/taskwire/taskwire/auditor/internal/ledger"
	"github.com/taskwire/taskwire/auditor/internal/pgledger"
	"github.com/taskwire/taskwire/auditor/internal/storetest"
	"github.com/taskwire/taskwire/internal/pgtest"
	"github.com/taskwire/taskwire/internal/postgres"
)

// A COMMIT that waits for a standby and is cancelled has happened on one disk only, and
// everybody sees it. Neither it nor a delivery of the same event again is answered before
// a standby has it.
func TestNoAnswerBeforeTheStandby(t *testing.T) {
	t.Parallel()
	db := pgtest.StartOwn(t).Database(t)
	l := opened(t, pgledger.Config{Database: postgres.Config{URL: db.URL, Application: "auditor"}})
	standby := pgtest.AwayStandby(t, db)
	deliver := func() <-chan ledger.Outcome {
		answered := make(chan ledger.Outcome, 1)
		go func() { answered <- l.Append(storetest.Event("a", 1))[0] }()
		return answered
	}
	for _, what := range []string{"first", "second"} {
		answered := deliver()
		standby.Cancel("auditor")
		var unavailable *pgledger.UnavailableError
		if out := <-answered; !errors.As(out.Err, &unavailable) {
			t.Errorf("the %s delivery, whose commit was cancelled, was answered %+v", what, out)
		}
	}
	answered := deliver()
	standby.AwaitCommit("auditor")
	standby.Returns()
	if out := <-answered; out.Err != nil || out.Seq != 1 || !out.Duplicate {
		t.Errorf("with a standby the delivery was answered %+v, want a duplicate of entry 1", out)
	}
}
