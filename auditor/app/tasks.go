package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/process"
	"github.com/taskwire/taskwire/internal/retry"
)

// taskAPI reads versions from a Task API.
type taskAPI struct {
	base   *url.URL
	token  string
	client *http.Client
}

func newTaskAPI(address, tokenFile string) (*taskAPI, error) {
	if err := env.CheckURL(address); err != nil {
		return nil, process.Usagef("--tasks: %v", err)
	}
	base, err := url.Parse(address)
	if err != nil {
		return nil, process.Usagef("--tasks: not an address")
	}
	api := &taskAPI{base: base.JoinPath("tasks"), client: &http.Client{
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment},
		Timeout:   30 * time.Second,
		// The token is for this address only.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if tokenFile == "" {
		return api, nil
	}
	text, err := os.ReadFile(tokenFile)
	if err != nil {
		return nil, process.Usagef("--token-file: %v", err)
	}
	words := strings.Fields(string(text))
	if len(words) != 1 {
		return nil, process.Usagef("--token-file: %s has %d words, want the token alone", tokenFile, len(words))
	}
	api.token = words[0]
	return api, nil
}

// list calls yield with each task and its version.
func (a *taskAPI) list(ctx context.Context, yield func(id string, version int64)) error {
	query := url.Values{"limit": {"1000"}}
	for {
		page := *a.base
		page.RawQuery = query.Encode()
		var answer struct {
			Tasks []struct {
				ID      string
				Version int64
			}
			Next *string `json:"next_cursor"`
		}
		if err := a.get(ctx, &page, &answer); err != nil {
			return err
		}
		for _, t := range answer.Tasks {
			yield(t.ID, t.Version)
		}
		if answer.Next == nil {
			return nil
		}
		if *answer.Next == query.Get("cursor") {
			return errors.New("the Task API gave the same page twice")
		}
		query.Set("cursor", *answer.Next)
	}
}

// version is 0 for a task that the API does not know.
func (a *taskAPI) version(ctx context.Context, id string) (int64, error) {
	// The id comes from the log, where anybody may have written anything.
	if id == "" || id == "." || id == ".." {
		return 0, nil
	}
	var answer struct{ Version int64 }
	err := a.get(ctx, a.base.JoinPath(url.PathEscape(id)), &answer)
	if errors.Is(err, errNoTask) {
		return 0, nil
	}
	return answer.Version, err
}

var errNoTask = errors.New("the Task API does not know the task")

// get tries again for a while: a restart of the API must not void a long run.
func (a *taskAPI) get(ctx context.Context, u *url.URL, into any) error {
	backoff := retry.Backoff{Min: 200 * time.Millisecond, Max: 2 * time.Second}
	for attempt := 1; ; attempt++ {
		again, err := a.try(ctx, u, into)
		if err == nil || !again || attempt == 6 {
			return err
		}
		if err := backoff.Wait(ctx); err != nil {
			return err
		}
	}
}

func (a *taskAPI) try(ctx context.Context, u *url.URL, into any) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, err
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return true, fmt.Errorf("ask the Task API: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	switch {
	case err != nil:
		return true, fmt.Errorf("read the Task API's answer: %w", err)
	case resp.StatusCode == http.StatusNotFound && u.Path != a.base.Path:
		return false, errNoTask
	case resp.StatusCode == http.StatusUnauthorized:
		return false, errors.New("the Task API asks for a token it knows: use --token-file FILE")
	case resp.StatusCode != http.StatusOK:
		return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the Task API answered %s at %s", resp.Status, u.Redacted())
	}
	if err := json.Unmarshal(body, into); err != nil {
		return false, fmt.Errorf("%s is no Task API: %w", a.base.Redacted(), err)
	}
	return false, nil
}
