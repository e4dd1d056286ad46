package app

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/taskwire/taskwire/internal/env"
	"github.com/taskwire/taskwire/internal/httpd"
	"github.com/taskwire/taskwire/internal/process"
)

// adminAPI is that of a running bridge, for the commands that call it.
type adminAPI struct {
	url    string
	lookup env.Lookup
}

// newAdminAPI adds the flag that names the bridge.
func newAdminAPI(flags *flag.FlagSet, lookup env.Lookup) *adminAPI {
	c := &adminAPI{lookup: lookup}
	flags.StringVar(&c.url, "admin", env.NewReader(lookup).String("ADMIN_URL", "http://localhost:8001"), "admin API of the bridge")
	return c
}

// largestAnswer is room for tens of thousands of partitions.
const largestAnswer = 16 << 20

// ask sends in, unless it is nil, and reads out. An answer other than 200 is an
// error with the bridge's reason.
func (c *adminAPI) ask(ctx context.Context, method, path string, in, out any) error {
	if err := env.CheckURL(c.url); err != nil {
		return process.Usagef("ADMIN_URL or --admin: %v", err)
	}
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.url, "/")+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if err := c.authorize(req); err != nil {
		return err
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("the admin API of the bridge does not answer; set ADMIN_URL or --admin: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, largestAnswer))
	if err != nil {
		return fmt.Errorf("read the answer of the bridge: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var p httpd.Problem
		_ = json.Unmarshal(answer, &p) // without a problem the status says enough
		return fmt.Errorf("the bridge answered %d: %s", resp.StatusCode, spelt(p.Detail))
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read the answer of the bridge: %w", err)
	}
	return nil
}

// authorize adds the first token of ADMIN_TOKEN_FILE, the file that the bridge
// itself reads.
func (c *adminAPI) authorize(req *http.Request) error {
	path, _ := c.lookup("ADMIN_TOKEN_FILE")
	if path == "" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("ADMIN_TOKEN_FILE: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			req.Header.Set("Authorization", "Bearer "+line)
			return nil
		}
	}
	return fmt.Errorf("ADMIN_TOKEN_FILE: %s holds no token", path)
}
