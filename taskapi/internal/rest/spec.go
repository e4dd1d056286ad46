package rest

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/taskwire/taskwire/internal/httpd"
)

// describe gives the document its words and the way to name a caller.
func describe(spec *huma.OpenAPI) {
	spec.Info.Description = "Tasks in, events out: every change that is answered with 2xx is committed together with its event."
	spec.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "Needed when the service runs with API_TOKENS_FILE."},
	}
	// Either no token or one: which it is depends on the service's settings.
	spec.Security = []map[string][]string{{}, {"token": {}}}
}

// refusals are the statuses each call may answer with beside its success.
var refusals = map[string][]int{
	"create-task":   {400, 401, 403, 408, 413, 415, 422, 503},
	"list-tasks":    {400, 401, 422, 503},
	"get-task":      {400, 401, 404, 503},
	"update-task":   {400, 401, 403, 404, 408, 412, 413, 415, 422, 503},
	"complete-task": {400, 401, 403, 404, 408, 412, 413, 415, 422, 503},
}

// operation describes one call. Its refusals are given here in full, which
// keeps the framework from describing its own.
func (a *API) operation(id, method, path, summary string, success int) huma.Operation {
	problem := a.spec.Components.Schemas.Schema(reflect.TypeFor[httpd.Problem](), true, "Problem")
	responses := map[string]*huma.Response{}
	for _, code := range refusals[id] {
		r := &huma.Response{
			Description: http.StatusText(code),
			Content:     map[string]*huma.MediaType{"application/problem+json": {Schema: problem}},
		}
		switch code {
		case http.StatusServiceUnavailable:
			r.Headers = map[string]*huma.Param{"Retry-After": {Description: "seconds to wait", Schema: &huma.Schema{Type: "integer"}}}
		case http.StatusUnauthorized:
			r.Headers = map[string]*huma.Param{"WWW-Authenticate": {Schema: &huma.Schema{Type: "string"}}}
		}
		responses[strconv.Itoa(code)] = r
	}
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, DefaultStatus: success, Tags: []string{"tasks"},
		Responses: responses, Parameters: parameters(id), SkipValidateParams: true,
	}
}

func header(name, description string, schema *huma.Schema) *huma.Param {
	return &huma.Param{Name: name, In: "header", Description: description, Schema: schema}
}

func query(name, description string, schema *huma.Schema) *huma.Param {
	return &huma.Param{Name: name, In: "query", Description: description, Schema: schema}
}

func parameters(id string) []*huma.Param {
	out := []*huma.Param{
		header("X-Correlation-ID", "echoed, and carried in the event; a uuid is made when absent", &huma.Schema{Type: "string", MinLength: new(1), MaxLength: new(128)}),
	}
	switch id {
	case "create-task", "update-task", "complete-task":
		out = append(out,
			header("Idempotency-Key", "a repeat within 24 h gives the first answer again", &huma.Schema{Type: "string", MinLength: new(1), MaxLength: new(255)}),
			header("traceparent", "W3C trace context, carried in the event", &huma.Schema{Type: "string"}),
			header("tracestate", "W3C trace context, carried in the event", &huma.Schema{Type: "string"}))
	case "get-task":
		out = append(out, header("If-None-Match", "an ETag that the caller has already", &huma.Schema{Type: "string"}))
	case "list-tasks":
		out = append(out,
			query("status", "only tasks in this status", &huma.Schema{Type: "string", Enum: []any{"pending", "in_progress", "completed"}}),
			query("owner_id", "only tasks of this owner", &huma.Schema{Type: "string", Format: "uuid"}),
			query("limit", "tasks in one page", &huma.Schema{Type: "integer", Minimum: new(1.0), Maximum: new(float64(maxLimit)), Default: defaultLimit}),
			query("cursor", "next_cursor of the page before", &huma.Schema{Type: "string"}))
	}
	if id == "update-task" || id == "complete-task" {
		out = append(out, header("If-Match", "the ETag that the task must still have", &huma.Schema{Type: "string"}))
	}
	return out
}

// NewTask and TaskPatch describe the bodies; decode reads them.
type (
	NewTask struct {
		Title   string  `json:"title" minLength:"1" maxLength:"500" doc:"1 to 500 characters after trimming, no control characters"`
		OwnerID *string `json:"owner_id,omitempty" format:"uuid" nullable:"true"`
	}
	TaskPatch struct {
		Title   string  `json:"title,omitempty" minLength:"1" maxLength:"500" doc:"1 to 500 characters after trimming, no control characters"`
		Status  string  `json:"status,omitempty" enum:"pending,in_progress,completed"`
		OwnerID *string `json:"owner_id,omitempty" format:"uuid" nullable:"true" doc:"null takes the owner away"`
	}
)

// finish adds what must not be there while the calls are registered: with a
// body in the description, the framework would read the body itself.
func finish(spec *huma.OpenAPI) {
	body := func(t reflect.Type, name string, required bool) *huma.RequestBody {
		return &huma.RequestBody{Required: required, Content: map[string]*huma.MediaType{
			"application/json": {Schema: spec.Components.Schemas.Schema(t, true, name)},
		}}
	}
	spec.Paths["/tasks"].Post.RequestBody = body(reflect.TypeFor[NewTask](), "NewTask", true)
	spec.Paths["/tasks/{id}"].Patch.RequestBody = body(reflect.TypeFor[TaskPatch](), "TaskPatch", true)
	spec.Paths["/tasks/{id}"].Get.Responses["304"] = &huma.Response{Description: http.StatusText(http.StatusNotModified)}
	// The framework describes its own errors too; none of them is ever sent.
	delete(spec.Components.Schemas.Map(), "ErrorModel")
	delete(spec.Components.Schemas.Map(), "ErrorDetail")
	correlation := &huma.Param{Description: "of the request", Schema: &huma.Schema{Type: "string"}}
	for _, path := range spec.Paths {
		for _, op := range []*huma.Operation{path.Get, path.Post, path.Patch} {
			if op == nil {
				continue
			}
			for _, r := range slices.Collect(maps.Values(op.Responses)) {
				if r.Headers == nil {
					r.Headers = map[string]*huma.Param{}
				}
				r.Headers["X-Correlation-ID"] = correlation
			}
		}
	}
}
