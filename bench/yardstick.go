package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// yardstick runs this program as one of the bare programs that a service is compared with.
func yardstick(role string, args []string) error {
	switch role {
	case "post":
		_, all := bodies(deliveries, 1000)
		return postAll(client(64), 64, args[0], structuredType, all, http.StatusNoContent)
	case "loop":
		return pollAndPost(args[0], args[1])
	case "append":
		return serveAppends(args[0], args[1])
	}
	return fmt.Errorf("unknown role %q", role)
}

// pollAndPost does the least that a bridge can do: poll, post one event after the other, commit each second.
func pollAndPost(broker, url string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumerGroup("loop"), kgo.ConsumeTopics("task-events"),
		kgo.AutoCommitMarks(), kgo.AutoCommitInterval(time.Second), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return err
	}
	defer cl.Close()
	c := client(1)
	for {
		fetches := cl.PollFetches(context.Background())
		for _, rec := range fetches.Records() {
			resp, err := c.Post(url, structuredType, bytes.NewReader(rec.Value))
			if err != nil {
				return err
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			cl.MarkCommitRecords(rec)
		}
	}
}

// serveAppends answers 201 when the body is in the file and the file is synced; concurrent requests share a sync.
func serveAppends(addr, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var pending []byte
	var waiting []chan error
	wake := make(chan struct{}, 1)
	go func() {
		for range wake {
			mu.Lock()
			batch, waiters := pending, waiting
			pending, waiting = nil, nil
			mu.Unlock()
			_, err := f.Write(batch)
			if err == nil {
				err = f.Sync()
			}
			for _, w := range waiters {
				w <- err
			}
		}
	}()
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		done := make(chan error, 1)
		mu.Lock()
		pending = append(append(pending, body...), '\n')
		waiting = append(waiting, done)
		mu.Unlock()
		select {
		case wake <- struct{}{}:
		default:
		}
		if err := <-done; err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"seq":1,"duplicate":false}`)
	}))
}
