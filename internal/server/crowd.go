package server

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// crowd bounds the connections of a server. Where there are too many, the one goes that has been of no use for the
// longest time: thousands that only stand there cannot keep out somebody who has something to ask. One whose request is
// being answered stays; where all are, a new one is turned away.
type crowd struct {
	most int

	mu      sync.Mutex
	all     map[net.Conn]*member
	useless *list.List // of *member, the oldest at the front
}

// member is one connection; crowd.mu guards it.
type member struct {
	conn  net.Conn
	place *list.Element // in useless; nil while its request is being answered
}

type memberKey struct{}

func newCrowd(most int) *crowd {
	return &crowd{most: most, all: map[net.Conn]*member{}, useless: list.New()}
}

// watch makes the server tell the crowd of its connections. A connection is of use from the moment that its request has
// a handler: who sends the head of one byte by byte is not.
func (c *crowd) watch(s *http.Server) {
	s.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			c.gone(conn)
		}
	}
	s.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, memberKey{}, c.come(conn))
	}
	answer := s.Handler
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, _ := r.Context().Value(memberKey{}).(*member)
		c.use(m)
		defer c.rest(m)
		answer.ServeHTTP(w, r)
	})
}

// come takes a new connection in, or turns it away: then the server finds it closed.
func (c *crowd) come(conn net.Conn) *member {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) >= c.most {
		oldest := c.useless.Front()
		if oldest == nil {
			_ = conn.Close()
			return nil
		}
		out := oldest.Value.(*member).conn
		c.remove(out)
		_ = out.Close()
	}
	m := &member{conn: conn}
	m.place = c.useless.PushBack(m)
	c.all[conn] = m
	return m
}

func (c *crowd) gone(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(conn)
}

// remove forgets a connection. The caller holds c.mu.
func (c *crowd) remove(conn net.Conn) {
	m := c.all[conn]
	if m == nil {
		return
	}
	delete(c.all, conn)
	if m.place != nil {
		c.useless.Remove(m.place)
		m.place = nil
	}
}

func (c *crowd) use(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m != nil && m.place != nil {
		c.useless.Remove(m.place)
		m.place = nil
	}
}

func (c *crowd) rest(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m != nil && m.place == nil && c.all[m.conn] == m {
		m.place = c.useless.PushBack(m)
	}
}
