package tree

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// maxAnswer bounds what is read of the answer of a witness or of the second place.
const maxAnswer = 64 << 10

// A Witness cosigns checkpoints that are consistent with the ones it has seen: C2SP
// tlog-witness.
type Witness struct {
	Name string
	URL  string // the submission prefix, without a slash at its end

	verifier note.Verifier
}

// Verifier checks the cosignatures of the witness.
func (w Witness) Verifier() note.Verifier { return w.verifier }

// ParseWitnesses reads the witness lines of a C2SP tlog-policy:
//
//	witness NAME VKEY URL
//
// Empty lines, comments (#) and the lines log, group and quorum, which are for
// those who verify, are skipped.
func ParseWitnesses(content []byte) ([]Witness, error) {
	var all []Witness
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		switch words[0] {
		case "log", "group", "quorum":
			continue
		case "witness":
		default:
			return nil, fmt.Errorf("line %d: want witness NAME VKEY URL", n)
		}
		if len(words) != 4 {
			return nil, fmt.Errorf("line %d: want witness NAME VKEY URL", n)
		}
		verifier, err := NewWitnessVerifier(words[2])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if u, err := url.Parse(words[3]); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
			return nil, fmt.Errorf("line %d: want an http or https address without credentials", n)
		}
		all = append(all, Witness{Name: words[1], URL: strings.TrimSuffix(words[3], "/"), verifier: verifier})
	}
	return all, lines.Err()
}

// A ForkError is a witness, or the second place, that has seen another log under
// this key: the log was rolled back, or two programs sign with the key.
type ForkError struct{ Where, Reason string }

func (e *ForkError) Error() string { return e.Where + " " + e.Reason }

// aheadError is a witness that has seen a larger tree than the one it was sent.
type aheadError struct{ size int64 }

func (e *aheadError) Error() string { return fmt.Sprintf("has seen %d lines", e.size) }

// add submits a checkpoint and returns the cosignatures. old is the size that the
// witness saw last, as far as is known: the witness corrects it. prove makes the
// consistency proof from that size.
func (w *Witness) add(ctx context.Context, client *http.Client, signed []byte, size, old int64, prove func(old int64) (tlog.TreeProof, error)) ([]note.Signature, error) {
	for range 3 {
		var body bytes.Buffer
		fmt.Fprintf(&body, "old %d\n", old)
		if old > 0 && old < size {
			proof, err := prove(old)
			if err != nil {
				return nil, err
			}
			for _, h := range proof {
				body.WriteString(h.String() + "\n")
			}
		}
		body.WriteString("\n")
		body.Write(signed)
		status, answer, err := call(ctx, client, http.MethodPost, w.URL+"/add-checkpoint", body.Bytes())
		if err != nil {
			return nil, err
		}
		switch status {
		case http.StatusOK:
			n, err := note.Open(append(bytes.Clone(signed), answer...), note.VerifierList(w.verifier))
			if err != nil {
				return nil, fmt.Errorf("its answer is no cosignature: %w", err)
			}
			return n.Sigs, nil
		case http.StatusConflict:
			text := strings.TrimSuffix(string(answer), "\n")
			seen, err := strconv.ParseInt(text, 10, 64)
			if err != nil || seen < 0 || seen == old {
				return nil, errors.New("it answers 409 without the size that it has seen")
			}
			if seen > size {
				return nil, &aheadError{seen}
			}
			old = seen
		case http.StatusUnprocessableEntity:
			return nil, &ForkError{w.Name, fmt.Sprintf("has seen %d lines that are not the first %d of this log", old, old)}
		case http.StatusNotFound:
			return nil, errors.New("it does not know this log; give it the output of `auditor key`")
		case http.StatusForbidden:
			return nil, errors.New("it has another key for this log; give it the output of `auditor key`")
		default:
			return nil, fmt.Errorf("it answers %d", status)
		}
	}
	return nil, errors.New("the size that it has seen changes with each answer")
}

// call sends a request and reads a short answer.
func call(ctx context.Context, client *http.Client, method, to string, body []byte) (status int, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, unnamed(err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return resp.StatusCode, answer, err
}

// unnamed drops the address, which may hold a secret in its query.
func unnamed(err error) error {
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}
