package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/taskwire/taskwire/schemas"
)

// schemaRegistry is that of -encoding avro, in memory and in this process.
type schemaRegistry struct {
	fake    *srfake.Registry
	server  *http.Server
	serving sync.WaitGroup
	url     string
	down    atomic.Pointer[string] // how it fails; nil = it answers
	asked   atomic.Int64           // requests that it failed
}

// outages are how a registry fails: starting, gone, silent, or another server.
func outages() []string { return []string{"503", "cut", "hang", "404"} }

func newRegistry() (*schemaRegistry, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &schemaRegistry{fake: srfake.New(), url: "http://" + l.Addr().String()}
	r.server = &http.Server{Handler: r}
	r.serving.Go(func() { _ = r.server.Serve(l) }) // it ends by close
	return r, nil
}

func (r *schemaRegistry) close() error {
	err := r.server.Close()
	r.serving.Wait()
	r.fake.Close()
	return err
}

func (r *schemaRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	how := r.down.Load()
	if how == nil {
		r.fake.Handler().ServeHTTP(w, req)
		return
	}
	r.asked.Add(1)
	switch *how {
	case "503":
		http.Error(w, "starting", http.StatusServiceUnavailable)
	case "404":
		http.NotFound(w, req)
	case "hang":
		<-req.Context().Done()
	default:
		panic(http.ErrAbortHandler)
	}
}

// injectRegistry has the registry fail while the Task API and a bridge, which know
// its schemas, are killed: what starts then knows none.
func injectRegistry(y *system, _ context.Context) (fault, error) {
	how := outages()[(y.turns["registry"]+int(y.Seed))%len(outages())]
	y.turns["registry"]++
	y.registry.down.Store(&how)
	api, b := y.program("taskapi"), y.bridges[y.rand.IntN(y.bridgeCount())]
	y.hit[api], y.hit[b] = true, true
	up := func() error { return errors.Join(api.Up(), b.Up()) }
	return fault{target: fmt.Sprintf("registry %s, taskapi and %s start", how, b.name), last: y.between(1500, 4500),
		heal: func() error { y.registry.down.Store(nil); return nil }}, errors.Join(api.Down(syscall.SIGKILL), b.Down(syscall.SIGKILL), up())
}

// encoded are the settings of a program that writes or reads events.
func (y *system) encoded() []string {
	if y.registry == nil {
		return nil
	}
	return []string{"EVENT_ENCODING=avro", "SCHEMA_REGISTRY_URL=" + y.registry.url}
}

// taskEvent is the data of a record in Avro, with the members of its JSON in order.
type taskEvent struct {
	TaskID  string  `avro:"task_id" json:"task_id"`
	Title   string  `avro:"title" json:"title"`
	Status  string  `avro:"status" json:"status"`
	OwnerID *string `avro:"owner_id" json:"owner_id"`
}

var taskSchema = sync.OnceValue(func() *avro.Schema { return avro.MustParse(schemas.TaskEvent) })

// readBinary reads a record in binary mode, without the code under test. ok is false for
// what is no event of a task.
func readBinary(headers []protocol.Header, value []byte) (e cloudEvent, isAvro, ok bool) {
	contentType := ""
	for _, h := range headers {
		text := string(h.Value)
		switch h.Key {
		case "ce_id":
			e.ID = text
		case "ce_source":
			e.Source = text
		case "ce_type":
			e.Type = text
		case "ce_subject":
			e.Subject = text
		case "ce_correlationid":
			e.Nonce = text
		case "ce_taskversion":
			if _, err := fmt.Sscan(text, &e.Version); err != nil {
				return e, false, false
			}
		case "content-type":
			contentType = text
		}
	}
	if e.ID == "" || contentType != "application/avro" {
		e.Data = value
		return e, false, e.ID != ""
	}
	if len(value) < 5 || value[0] != 0 || binary.BigEndian.Uint32(value[1:]) == 0 {
		return e, true, false
	}
	var d taskEvent
	if rest, err := taskSchema().Decode(value[5:], &d); err != nil || len(rest) > 0 {
		return e, true, false
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if enc.Encode(d) != nil {
		return e, true, false
	}
	e.Data = bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	return e, true, true
}
