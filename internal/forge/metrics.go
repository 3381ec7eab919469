package forge

import (
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// traffic counts what goes over a Network, by host and protocol: hosts are those of the configuration, so they are few.
type traffic struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	received *prometheus.CounterVec

	mu     sync.Mutex
	meters map[[2]string]*meter // by origin and protocol
}

// newTraffic makes the counters, and registers them where there is somebody to read them.
func newTraffic(register prometheus.Registerer) *traffic {
	t := &traffic{
		meters: map[[2]string]*meter{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_forge_requests_total", Help: "Requests to the API of a forge, and questions over Git, by what came of them.",
		}, []string{"host", "protocol", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sentry_forge_request_seconds", Help: "Time until the header of the answer was there.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"host", "protocol"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_forge_received_bytes_total", Help: "Bytes of answers, those of an API unpacked.",
		}, []string{"host", "protocol"}),
	}
	if register != nil {
		register.MustRegister(t.requests, t.seconds, t.received)
	}
	return t
}

// meter gives what counts the traffic with an origin over a protocol.
func (t *traffic) meter(origin, protocol string) *meter {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := [2]string{origin, protocol}
	m := t.meters[of]
	if m == nil {
		host := hostOf(origin)
		m = &meter{
			requests: t.requests.MustCurryWith(prometheus.Labels{"host": host, "protocol": protocol}),
			seconds:  t.seconds.WithLabelValues(host, protocol),
			received: t.received.WithLabelValues(host, protocol),
		}
		m.good = m.requests.WithLabelValues("2xx")
		t.meters[of] = m
	}
	return m
}

// meter counts the traffic with one origin over one protocol. It has found its counters, which takes longer than to count.
type meter struct {
	requests *prometheus.CounterVec // by outcome
	good     prometheus.Counter     // of them
	seconds  prometheus.Observer
	received prometheus.Counter
}

// request counts one that was answered, or was not, after a time.
func (m *meter) request(resp *http.Response, err error, took time.Duration) {
	m.seconds.Observe(took.Seconds())
	if err != nil {
		m.requests.WithLabelValues("error").Inc()
		return
	}
	switch resp.StatusCode {
	case http.StatusOK:
		m.good.Inc()
	case http.StatusNotModified, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
		m.requests.WithLabelValues(strconv.Itoa(resp.StatusCode)).Inc()
	default:
		m.requests.WithLabelValues(strconv.Itoa(resp.StatusCode/100) + "xx").Inc()
	}
}

// hostOf is the host of an origin, with the port only where it is a special one.
func hostOf(origin string) string {
	u, err := url.Parse(origin)
	if err != nil {
		return origin
	}
	if p := u.Port(); u.Scheme == "https" && p == "443" || u.Scheme == "http" && p == "80" {
		return u.Hostname()
	}
	return u.Host
}

// gauges tells of budgets and credentials, when it is asked. Hosts with several credentials show the one that has least.
type gauges struct{ forges *Forges }

var (
	limitGauge     = prometheus.NewDesc("sentry_forge_budget_limit", "Requests that a window allows.", []string{"host", "resource"}, nil)
	remainingGauge = prometheus.NewDesc("sentry_forge_budget_remaining", "Requests that are left of it.", []string{"host", "resource"}, nil)
	pausedGauge    = prometheus.NewDesc("sentry_forge_paused_seconds", "How long the host is left alone because it asked for that.", []string{"host"}, nil)
	expiresGauge   = prometheus.NewDesc("sentry_forge_credential_expires_timestamp_seconds", "When a credential ends, where the forge tells.", []string{"host"}, nil)
)

// Describe names the metrics.
func (g gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{limitGauge, remainingGauge, pausedGauge, expiresGauge} {
		out <- d
	}
}

// Collect tells them.
func (g gauges) Collect(out chan<- prometheus.Metric) {
	type place struct{ host, resource string }
	least, paused, ends := map[place]BudgetState{}, map[string]float64{}, map[string]time.Time{}
	now := time.Now()
	for _, s := range g.forges.Budgets() {
		paused[s.Host] = max(paused[s.Host], s.PausedUntil.Sub(now).Seconds(), 0)
		at := place{s.Host, s.Resource}
		if known, ok := least[at]; s.Limit > 0 && (!ok || s.Remaining < known.Remaining) {
			least[at] = s
		}
	}
	g.forges.mu.RLock()
	for _, a := range g.forges.accounts {
		if a.isFormer() {
			continue
		}
		host, at := hostOf(a.origin), a.endsAt()
		if known, ok := ends[host]; !at.IsZero() && (!ok || at.Before(known)) {
			ends[host] = at
		}
	}
	g.forges.mu.RUnlock()
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	for at, s := range least {
		gauge(limitGauge, float64(s.Limit), at.host, at.resource)
		gauge(remainingGauge, float64(s.Remaining), at.host, at.resource)
	}
	for host, seconds := range paused {
		gauge(pausedGauge, seconds, host)
	}
	for host, at := range ends {
		gauge(expiresGauge, float64(at.Unix()), host)
	}
}
