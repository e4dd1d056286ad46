package pump_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/taskwire/taskwire/bridge/internal/pump"
	"github.com/taskwire/taskwire/internal/embedkafka"
)

// counted counts the connections of a listener.
type counted struct {
	net.Listener
	open, most atomic.Int32
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.most.Store(max(l.most.Load(), l.open.Add(1)))
	return &countedConn{Conn: c, of: l}, nil
}

type countedConn struct {
	net.Conn
	of   *counted
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.of.open.Add(-1) })
	return c.Conn.Close()
}

// Two hundred partitions that have had work and have none now cost a loop and a
// fetcher each, one request at a time, a few connections to the broker, and no
// worker and no connection to the sink. What arrives is delivered all the same.
func TestIdlePartitionsCostLittle(t *testing.T) {
	const partitions = 200
	var brokers counted
	listen := func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		brokers.Listener = l
		return &brokers, err
	}
	var delivered, sinkConns atomic.Int32
	sink := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { delivered.Add(1) }))
	sink.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			sinkConns.Add(1)
		case http.StateClosed, http.StateHijacked:
			sinkConns.Add(-1)
		}
	}
	sink.Start()
	t.Cleanup(sink.Close)
	b := setupOn(t, sink.URL, embedkafka.Config{Topics: map[string]int{"events": partitions, "dlq": 1}, Listen: listen})
	b.before = func(s *pump.Subscription) { s.SetWorkerIdle(50 * time.Millisecond) }
	var mu sync.Mutex
	var named []int // partitions in each fetch
	b.broker.Cluster().ControlKey(1, func(req kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		named = append(named, len(req.(*kmsg.FetchRequest).Topics[0].Partitions))
		return nil, nil, false
	})
	var all []*kgo.Record
	for id := range int32(partitions) {
		for i := range 5 {
			e := event(fmt.Sprintf("%d-%d", id, i), fmt.Sprintf("k%d", i))
			e.Partition = id
			all = append(all, e)
		}
	}
	before := runtime.NumGoroutine()
	b.produce(all...)
	b.run()
	until(t, "everything is delivered", func() bool { return int(delivered.Load()) == len(all) })
	until(t, "no connection to the sink is left", func() bool { return sinkConns.Load() == 0 })
	until(t, "three requests in a row name all partitions", func() bool {
		mu.Lock()
		defer mu.Unlock()
		n := len(named)
		return n > 3 && named[n-1] == partitions && named[n-2] == partitions && named[n-3] == partitions
	})
	if got := runtime.NumGoroutine() - before; got > 3*partitions {
		t.Errorf("%d goroutines, want at most 3 for each of %d partitions", got, partitions)
	}
	if most := brokers.most.Load(); most > 12 {
		t.Errorf("%d connections to the broker at once, want a few", most)
	}
	e := event("late", "k")
	e.Partition = 77
	b.produce(e)
	until(t, "what arrives is delivered", func() bool { return int(delivered.Load()) == len(all)+1 })
}
