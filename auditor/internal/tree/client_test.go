package tree

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"filippo.io/torchwood"
)

// TestOtherClient reads the log through HTTP with a client of another make, which
// proves each entry against the checkpoint.
func TestOtherClient(t *testing.T) {
	w := newWorld(t)
	w.run(66000, 300)
	server := httptest.NewServer(http.FileServer(http.Dir(w.dir)))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	fetcher, err := torchwood.NewTileFetcher(server.URL, torchwood.WithHTTPClient(server.Client()))
	if err != nil {
		t.Fatal(err)
	}
	client, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	_, c := w.checkpoint()
	n := int64(60000)
	for i, entry := range client.Entries(t.Context(), c.Tree, n) {
		if i != n || [32]byte(entry) != Leaf(w.lines[i]) {
			t.Fatalf("entry %d is not line %d", i, n+1)
		}
		n++
	}
	if err := client.Err(); err != nil {
		t.Fatal(err)
	}
	if n < 66300-256 { // it leaves the entries of a partial tile for later
		t.Errorf("read up to %d of %d entries", n, c.N)
	}
}
