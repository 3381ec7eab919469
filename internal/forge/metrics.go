package forge

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// traffic counts what goes over a Network, by host: hosts are those of the configuration, so they are few.
type traffic struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	received *prometheus.CounterVec
}

// newTraffic makes the counters, and registers them where there is somebody to read them.
func newTraffic(register prometheus.Registerer) *traffic {
	t := &traffic{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_forge_requests_total", Help: "Requests to the API of a forge, by what came of them.",
		}, []string{"host", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sentry_forge_request_seconds", Help: "Time until the header of the answer was there.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"host"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_forge_received_bytes_total", Help: "Bytes of answers, unpacked.",
		}, []string{"host"}),
	}
	if register != nil {
		register.MustRegister(t.requests, t.seconds, t.received)
	}
	return t
}

func (t *traffic) request(origin string, resp *http.Response, err error, took time.Duration) {
	host := hostOf(origin)
	outcome := "error"
	if err == nil {
		outcome = strconv.Itoa(resp.StatusCode/100) + "xx"
		switch resp.StatusCode {
		case http.StatusNotModified, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests:
			outcome = strconv.Itoa(resp.StatusCode)
		}
	}
	t.requests.WithLabelValues(host, outcome).Inc()
	t.seconds.WithLabelValues(host).Observe(took.Seconds())
}

func (t *traffic) bytes(origin string, n int) {
	t.received.WithLabelValues(hostOf(origin)).Add(float64(n))
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
