package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
)

// yardstick runs this program as one of the bare programs that a service is compared with.
func yardstick(role string, args []string) error {
	switch role {
	case "post":
		conns, err1 := strconv.Atoi(args[1])
		n, err2 := strconv.Atoi(args[2])
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		_, all := bodies(n, 1000)
		return postAll(client(conns), conns, args[0], structuredType, all, http.StatusNoContent)
	case "loop":
		return pollAndPost(args[0], args[1], args[2])
	case "append":
		return serveAppends(args[0], args[1])
	case "produce":
		return serveProduces(args[0], args[1], args[2])
	case "broker":
		return serveBroker(args[0], args[1], args[2], args[3])
	}
	return fmt.Errorf("unknown role %q", role)
}

// pollAndPost does the least that a bridge can do: poll, post one event after the other, commit each second.
func pollAndPost(broker, topic, url string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumerGroup(topic+"-loop"), kgo.ConsumeTopics(topic),
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

// serveProduces answers 201 when Kafka has acknowledged the body with acks=all:
// the least that an API does which keeps nothing itself. A linger would only
// slow it down, since each client waits for its answer.
func serveProduces(addr, broker, topic string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer cl.Close()
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		id := uuid.NewString()
		if err := cl.ProduceSync(r.Context(), record(id, body)).FirstErr(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"id":"`+id+`","status":"pending","version":1}`)
	}))
}
