package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// benchTree measures the proof of one entry, asked for over one connection, and the
// verification of all of them. The yardstick of a proof is the entry itself; that of
// the verification is reading the same file and hashing each of its lines.
func benchTree(ctx context.Context, r *rig, t *table) error {
	entries := r.n(1_000_000)
	path, _, err := r.largeLog(ctx, entries)
	if err != nil {
		return err
	}
	p, err := r.startLarge(ctx, path)
	if err != nil {
		return err
	}
	r.say("proofs")
	proofs, err := answered(ctx, p.url+"/proof/", entries)
	if err != nil {
		return err
	}
	lines, err := answered(ctx, p.url+"/entries/", entries)
	if err != nil {
		return err
	}
	if _, err := p.stop(); err != nil {
		return err
	}
	r.say("auditor verify")
	began := time.Now()
	if out, err := exec.CommandContext(ctx, filepath.Join(r.programs, "auditor"), "verify", path).CombinedOutput(); err != nil {
		return fmt.Errorf("auditor verify: %w\n%s", err, out)
	}
	verified := time.Since(began)
	hashed, err := hashLines(path)
	if err != nil {
		return err
	}
	p50, p99 := percentiles(proofs)
	bare50, bare99 := percentiles(lines)
	t.against("proof of an entry, against the entry, p50", seconds, p50, bare50, none)
	t.against("the same, p99", seconds, p99, bare99, none)
	t.against("lines verified, against hashing them", perSecond, float64(entries)/verified.Seconds(), float64(entries)/hashed.Seconds(), none)
	return nil
}

// answered are the times of 1,000 requests for different entries.
func answered(ctx context.Context, url string, entries int) (took []time.Duration, err error) {
	for range 1000 {
		began := time.Now()
		if _, err := get(ctx, fmt.Sprint(url, 1+rand.IntN(entries))); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}

func hashLines(path string) (time.Duration, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	began := time.Now()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		_ = sha256.Sum256(lines.Bytes())
	}
	return time.Since(began), lines.Err()
}
