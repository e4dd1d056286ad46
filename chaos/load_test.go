package main

import (
	"io"
	"testing"

	"github.com/taskwire/taskwire/internal/check"
)

// A client that is too certain makes the whole judgment worthless.
func TestAnAnswerProvesNoMoreThanItSays(t *testing.T) {
	const task = `{"id":"a","title":"x","status":"pending","version":1}`
	for _, c := range []struct {
		status int
		body   string
		err    error
		want   string
	}{
		{201, task, nil, check.OK},
		{200, task[:9], io.ErrUnexpectedEOF, check.OKUnread},
		{200, task[:9], nil, check.OKUnread},
		{200, "{}", nil, check.OKUnread},
		{302, "", nil, check.Info},
		{400, "{}", nil, check.Fail},
		{412, "{}", nil, check.Fail},
		{422, "{}", nil, check.Fail},
		{408, "{}", nil, check.Info},
		{409, "{}", nil, check.Info},
		{429, "{}", nil, check.Info},
		{500, "{}", nil, check.Info},
		{503, "{}", nil, check.Info},
	} {
		op, _ := request{kind: "update", effect: check.EffectYes}.judge(c.status, []byte(c.body), c.err)
		if op.Phase != c.want {
			t.Errorf("%d %q is %s, want %s", c.status, c.body, op.Phase, c.want)
		}
		if wantEffect := c.want == check.OK || c.want == check.OKUnread; (op.Effect == check.EffectYes) != wantEffect {
			t.Errorf("%d %q has the effect %q, want one: %v", c.status, c.body, op.Effect, wantEffect)
		}
	}
}
