package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sentry/internal/config"
	"sentry/internal/logger"
	"sentry/internal/server"
)

// door is the listener of global.listen: what strangers reach. Until callers can prove who they are it answers only what
// tells nothing, and takes webhooks, which prove themselves; metrics are for those on this machine, unless the configuration opens them.
type door struct {
	net.Listener
	configured string // as global.listen has it
	server     *http.Server
	retired    atomic.Bool // it was closed to make room for another
}

// doors is the door that is open, and word of it when that is another.
type doors struct {
	mu      sync.Mutex
	open    *door         // nil where global.listen is empty
	changed chan struct{} // closed when open is another
}

const (
	maxConnections = 1000
	// leaving is what those who are being answered get when a door closes.
	leaving = 5 * time.Second
	// yielding is how long nothing listens at most, while one door makes room for another.
	yielding = 500 * time.Millisecond
)

// now gives the open door, and what is closed when it no longer is.
func (d *doors) now() (*door, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.open, d.changed
}

// set opens another door, or none.
func (d *doors) set(open *door) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = open
	if d.changed != nil {
		close(d.changed)
	}
	d.changed = make(chan struct{})
}

// Addr is the address that global.listen has come to, with the port that was chosen where it is 0; "" where nothing
// listens.
func (d *Daemon) Addr() string {
	open, _ := d.doors.now()
	if open == nil {
		return ""
	}
	return open.Addr().String()
}

// openDoor binds the address of the configuration that the daemon starts with.
func (d *Daemon) openDoor() error {
	take, err := d.nextDoor(d.config.Load())
	if err != nil {
		return err
	}
	take()
	d.onClose("listener", func() error {
		if open, _ := d.doors.now(); open != nil {
			_ = open.Close() // its server may have closed it
		}
		return nil
	})
	return nil
}

// newDoor binds an address. Its server answers when serveDoors runs.
func (d *Daemon) newDoor(address string) (*door, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		why := err
		if at, ok := errors.AsType[*net.OpError](err); ok {
			why = at.Err
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("global.listen: cannot listen on %s: another process does already (%w)", address, why)
		}
		return nil, fmt.Errorf("global.listen: cannot listen on %s: %w", address, why)
	}
	o := d.api()
	o.Connections = maxConnections
	o.Hosts = func(host string) bool { return server.Named(d.names()...)(host) }
	closed, open := server.Anonymous(), server.Anonymous("/metrics")
	at, ok := l.Addr().(*net.TCPAddr)
	local := ok && at.IP.IsLoopback()
	o.Authorize = func(r *http.Request, need server.Role) (server.Caller, error) {
		if local || d.config.Load().Global.Metrics == config.MetricsOpen {
			return open(r, need)
		}
		return closed(r, need)
	}
	return &door{Listener: l, configured: address, server: server.New(o)}, nil
}

// names are those by which this machine is known to people: requests may give them.
func (d *Daemon) names() []string {
	g := d.config.Load().Global
	var names []string
	if host, _, err := net.SplitHostPort(g.Listen); err == nil {
		names = append(names, host)
	}
	if u, err := url.Parse(g.PublicURL); err == nil {
		names = append(names, u.Hostname())
	}
	return names
}

// nextDoor binds the address of another configuration, before the one that is bound now is let go: an address that cannot
// be had changes nothing. The caller calls take when the configuration is in use; until then who connects to the new
// address waits.
//
// Two addresses with the same port (127.0.0.1:8080 and 0.0.0.0:8080) exclude each other. Then the old one is closed
// first, and opened again where the new one cannot be had.
func (d *Daemon) nextDoor(next *config.Config) (take func(), err error) {
	old, _ := d.doors.now()
	address := next.Global.Listen
	switch {
	case d.socket == nil, // in the foreground nothing listens
		old == nil && address == "", old != nil && old.configured == address:
		return func() {}, nil
	case address == "":
		return func() {
			d.doors.set(nil)
			d.log.Info("nothing listens any more", "address", old.Addr().String())
		}, nil
	}
	opened, err := d.newDoor(address)
	if errors.Is(err, syscall.EADDRINUSE) && old != nil && samePort(old.Addr().String(), address) {
		opened, err = d.replaceDoor(old, address)
	}
	if err != nil {
		return nil, err
	}
	return func() { d.doors.set(opened); d.tellDoor(opened) }, nil
}

// replaceDoor closes a door to bind another with its port.
func (d *Daemon) replaceDoor(old *door, address string) (*door, error) {
	bound := old.Addr().String()
	old.retired.Store(true)
	_ = old.Close()
	opened, err := d.newDoorSoon(address, yielding)
	if err == nil {
		return opened, nil
	}
	again, worse := d.newDoorSoon(bound, 10*yielding)
	if worse != nil {
		d.doors.set(nil)
		return nil, fmt.Errorf("%w; and now nothing listens, since the address before cannot be had any more: %w", err, worse)
	}
	again.configured = old.configured
	d.doors.set(again)
	return nil, err
}

// newDoorSoon binds an address that was in use a moment ago. A program that is being started has all of our files until
// it runs, so that an address may stay bound for some milliseconds after it was closed.
func (d *Daemon) newDoorSoon(address string, patience time.Duration) (*door, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		opened, err := d.newDoor(address)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return opened, err
		}
	}
}

func samePort(a, b string) bool {
	_, x, err1 := net.SplitHostPort(a)
	_, y, err2 := net.SplitHostPort(b)
	return err1 == nil && err2 == nil && x == y
}

func (d *Daemon) tellDoor(open *door) {
	g := d.config.Load()
	hooks := g.Global.WebhookSecret.Path != ""
	for i := range g.Repositories {
		hooks = hooks || g.Repositories[i].Monitor.WebhookSecret.Path != ""
	}
	d.log.Info("listening", "address", open.Addr().String(), "webhooks", strconv.FormatBool(hooks))
}

// serveDoors answers at the door that is open, until ctx ends.
func (d *Daemon) serveDoors(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		open, changed := d.doors.now()
		if open != nil {
			all.Go(func() { d.serveDoor(ctx, open, changed) })
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// serveDoor answers at one door until it is no longer the open one.
func (d *Daemon) serveDoor(ctx context.Context, open *door, changed <-chan struct{}) {
	ended := make(chan error, 1)
	go func() { ended <- open.server.Serve(open) }()
	select {
	case <-ctx.Done():
	case <-changed:
		d.leave(ctx, open)
	case err := <-ended:
		ended <- err
		if !open.retired.Load() && ctx.Err() == nil {
			d.log.Error("nobody is answered at the address of global.listen any more", "address", open.Addr().String(), logger.KeyError, err)
		}
		select { // those who were let in are answered
		case <-ctx.Done():
		case <-changed:
			d.leave(ctx, open)
		}
	}
	_ = open.server.Close()
	<-ended
}

// leave lets those who are being answered be.
func (d *Daemon) leave(ctx context.Context, open *door) {
	patience, cancel := context.WithTimeout(ctx, leaving)
	defer cancel()
	_ = open.server.Shutdown(patience)
}
