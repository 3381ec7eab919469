package server

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// flood bounds what strangers can make a process do: how often each of them may come, and all together, and how much
// memory their bodies take. Whoever is refused has cost a look at the address. It is safe for concurrent use.
type flood struct {
	mu       sync.Mutex
	total    *rate.Limiter
	visitors *lru[netip.Addr, *visitor]
	inside   int // visits that go on
	held     int // bytes
}

// visitor is a remote address; flood.mu guards it. One that was forgotten while it visits goes on counting for all.
type visitor struct {
	many   bool // it stands for any number of senders: only what holds for all is asked of it
	limit  *rate.Limiter
	inside int // visits that go on
	held   int // bytes
}

// allow takes units of what a visitor may use.
func (v *visitor) allow(now time.Time, units int) bool { return v.many || v.limit.AllowN(now, units) }

// fits reports whether a visitor may have so many visits, or bytes, where one may have most.
func (v *visitor) fits(n, most int) bool { return v.many || n <= most }

// visit is one request.
type visit struct {
	flood *flood
	by    *visitor
	held  int // bytes
}

// The unit of the rates is a request, or what it takes to check a signature over a piece of a body: some 0.2 ms.
const (
	unit         = 256 << 10 // bytes that are hashed
	rateOfAll    = 200       // units a second
	burstOfAll   = 600
	rateOfOne    = 50 // of an address: all of a forge's webhooks may come from one
	burstOfOne   = 200
	insideOfAll  = 256 // requests at a time: who sends slowly stands in the way of as many at most
	insideOfOne  = 64
	memoryOfAll  = 32 << 20
	memoryOfOne  = 8 << 20
	maxVisitors  = 4096
	prefixOfIPv6 = 64 // bits: who has one address there has all of them
)

func newFlood() *flood {
	return &flood{total: rate.NewLimiter(rateOfAll, burstOfAll), visitors: newLRU[netip.Addr, *visitor](maxVisitors)}
}

// enter begins a request from a remote address; ok is false where there are too many. leave ends it.
func (f *flood) enter(remote string, now time.Time) (v *visit, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	address := addressOf(remote)
	by, known := f.visitors.get(address)
	if !known {
		by = &visitor{many: address.IsLoopback(), limit: rate.NewLimiter(rateOfOne, burstOfOne)}
		f.visitors.put(address, by)
	}
	// The address first: who is refused takes nothing from the others.
	if !by.fits(by.inside+1, insideOfOne) || f.inside >= insideOfAll || !by.allow(now, 1) || !f.total.AllowN(now, 1) {
		return nil, false
	}
	by.inside++
	f.inside++
	return &visit{flood: f, by: by}, true
}

// spend takes the units for so many bytes that are to be hashed. What is more than a burst counts as one.
func (v *visit) spend(bytes int, now time.Time) bool {
	v.flood.mu.Lock()
	defer v.flood.mu.Unlock()
	units := bytes / unit
	return v.by.allow(now, min(units, burstOfOne)) && v.flood.total.AllowN(now, min(units, burstOfAll))
}

// hold takes so many bytes of memory until the visit ends.
func (v *visit) hold(bytes int) bool {
	v.flood.mu.Lock()
	defer v.flood.mu.Unlock()
	if v.flood.held+bytes > memoryOfAll || !v.by.fits(v.by.held+bytes, memoryOfOne) {
		return false
	}
	v.held += bytes
	v.by.held += bytes
	v.flood.held += bytes
	return true
}

func (v *visit) leave() {
	v.flood.mu.Lock()
	defer v.flood.mu.Unlock()
	v.by.inside--
	v.flood.inside--
	v.by.held -= v.held
	v.flood.held -= v.held
}

// addressOf is whom a request counts for: an IPv4 address, a network of IPv6, or, for everything without an address, the
// zero Addr. What a proxy says of its callers is not looked at, as anybody can say it. A proxy on this machine, which
// stands for all of them, has a loopback address, and none other has.
func addressOf(remote string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	address := at.Addr().Unmap().WithZone("")
	if address.Is6() && !address.IsLoopback() {
		if network, err := address.Prefix(prefixOfIPv6); err == nil {
			return network.Addr()
		}
	}
	return address
}

// lru keeps the values that were used last, up to a number. Whoever has it locks it.
type lru[K comparable, V any] struct {
	most  int
	order *list.List // of entries, the newest at the front
	at    map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](most int) *lru[K, V] {
	return &lru[K, V]{most: most, order: list.New(), at: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (value V, ok bool) {
	e, ok := l.at[key]
	if !ok {
		return value, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruEntry[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
	if e, ok := l.at[key]; ok {
		e.Value.(*lruEntry[K, V]).value = value
		l.order.MoveToFront(e)
		return
	}
	l.at[key] = l.order.PushFront(&lruEntry[K, V]{key, value})
	if l.order.Len() > l.most {
		oldest := l.order.Back()
		l.order.Remove(oldest)
		delete(l.at, oldest.Value.(*lruEntry[K, V]).key)
	}
}
