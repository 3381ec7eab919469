package forgetest

import (
	"context"
	"net"
	"sync"
)

// Pipe is a listener whose connections are pipes in memory: a server and its clients can live in a synctest bubble, whose
// clock stands still while anybody waits for a real network.
type Pipe struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

// NewPipe makes a Pipe.
func NewPipe() *Pipe {
	return &Pipe{connections: make(chan net.Conn), closed: make(chan struct{})}
}

// DialContext connects to the server that accepts from the pipe, whatever the address.
func (p *Pipe) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.connections <- theirs:
		return ours, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept waits for the next connection.
func (p *Pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (p *Pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr is no real address.
func (p *Pipe) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }
