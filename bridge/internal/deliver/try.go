package deliver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
)

// Try posts once for a person who looks at the answer, without the credentials of
// the bridge: no signature, no token, no configured header. It reads the beginning
// of the answer and follows no redirect. What no sink may have as its address is
// refused as ever.
func (c *Client) Try(ctx context.Context, header http.Header, body []byte) (status int, answered http.Header, text []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, fmt.Errorf("make the request: %w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", agent)
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("post: %w", err)
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, drainLimit))
	if err != nil {
		err = fmt.Errorf("read the answer: %w", err)
	}
	return resp.StatusCode, resp.Header, text, err
}
