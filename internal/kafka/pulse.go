package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"

	"github.com/taskwire/taskwire/internal/retry"
)

const (
	// silence is how long a connection may wait for a broker before the broker is
	// asked on a connection of its own whether it is alive.
	silence = time.Second
	// patience bounds that question at first. An answer that needed dialTimeout
	// proves a slow network, and from then on the address has that long.
	patience = 2 * time.Second
	// askEvery is the pause between questions to a silent broker.
	askEvery = 500 * time.Millisecond
	// wantedFor is how long a silent broker is asked after the last attempt to connect.
	wantedFor = time.Minute
)

var errSilent = errors.New("it does not answer")

// pulse is whether the broker at an address answers. A broker that hangs, or
// that a network swallows, refuses nothing: each request to it and each new
// connection would last until its own deadline, 3 to 60 s, also when another
// broker could have answered. No deadline fits all requests, because a join, a
// long poll and a produce may rightly wait. Therefore a request that waits for a
// second makes a goroutine ask the broker for its versions, which needs no
// authentication and no disk. Without an answer the broker counts as silent: its
// connections are closed, so that all requests to it fail now, the next requests
// look for the leaders and coordinators again, and connections to it are refused
// at once until it answers.
//
// The question does no harm to a broker that is merely slow: an aborted request is
// repeated as after any lost connection. Guarded by connections.mu.
type pulse struct {
	asking   bool // a goroutine runs ask
	silent   bool
	patience time.Duration
	wanted   time.Time // the last attempt to connect
	dials    map[*context.CancelCauseFunc]struct{}
}

// began records a dial. Its error says that the broker is silent. The caller
// calls end when the dial has ended.
func (c *connections) began(network, address string, cancel context.CancelCauseFunc) (end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pulse(address)
	p.wanted = time.Now()
	if p.silent {
		return nil, c.unreachable(address)
	}
	p.dials[&cancel] = struct{}{}
	timer := time.AfterFunc(silence, func() { c.doubt(network, address) })
	return func() {
		timer.Stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(p.dials, &cancel)
	}, nil
}

// pulse needs mu.
func (c *connections) pulse(address string) *pulse {
	p := c.pulses[address]
	if p == nil {
		p = &pulse{patience: patience, dials: map[*context.CancelCauseFunc]struct{}{}}
		c.pulses[address] = p
	}
	return p
}

func (c *connections) unreachable(address string) error {
	return &UnreachableError{Address: address, Bootstrap: slices.Contains(c.bootstrap, address), Err: errSilent}
}

// doubt starts a goroutine that asks the broker, unless one runs. close waits for it.
func (c *connections) doubt(network, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pulse(address)
	if c.closed || p.asking {
		return
	}
	p.asking = true
	c.asking.Go(func() { c.ask(network, address, p, p.patience) })
}

// ask returns when the broker has answered, or nobody wants it any more.
func (c *connections) ask(network, address string, p *pulse, patience time.Duration) {
	for {
		err := c.question(network, address, patience)
		if c.judge(address, p, patience, err) {
			return
		}
		patience = dialTimeout
		if retry.Pause(c.ctx, askEvery) != nil {
			return
		}
	}
}

// judge takes the outcome of a question. False asks for another one.
func (c *connections) judge(address string, p *pulse, patience time.Duration, err error) (over bool) {
	c.mu.Lock()
	if err == nil {
		p.patience = patience
	}
	if !unanswered(err) || time.Since(p.wanted) > wantedFor {
		p.asking, p.silent = false, false // a broker that refuses is silent no longer: its refusals are as quick as ours
		c.mu.Unlock()
		return true
	}
	if p.silent {
		c.mu.Unlock()
		return false
	}
	p.silent = true
	for cancel := range p.dials {
		(*cancel)(c.unreachable(address))
	}
	var cut []*connection
	for conn := range c.open {
		if conn.address == address {
			conn.cut.Store(true)
			cut = append(cut, conn)
		}
	}
	c.mu.Unlock()
	c.forget()
	for _, conn := range cut {
		_ = conn.Conn.Close() // the library closes the wrapper when it notices
	}
	return false
}

// question asks the broker for its versions on a connection of its own.
func (c *connections) question(network, address string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	conn, err := c.dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(c.ctx, func() { _ = conn.Close() })()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	m, err := protocol.NewConn(conn, c.clientID).RoundTrip(new(apiversions.Request))
	if err != nil {
		return fmt.Errorf("ask for its versions: %w", err)
	}
	if code := m.(*apiversions.Response).ErrorCode; code != 0 {
		return kafkago.Error(code)
	}
	return nil
}

// unanswered reports whether nothing at all came from the other end.
func unanswered(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &timeout) && timeout.Timeout() ||
		errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}
