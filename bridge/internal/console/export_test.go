package console

import (
	"net/http"

	"github.com/taskwire/taskwire/bridge/internal/redrive"
)

// Pretty is how the text of a record is shown.
var Pretty = pretty

// ShowJob shows a job as if there were one.
func (c *Console) ShowJob(w http.ResponseWriter, r *http.Request, v redrive.View) {
	c.show(w, r, http.StatusOK, "job", "Dead letters", jobData{View: v})
}
