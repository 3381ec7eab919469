package kube

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// traffic counts what goes through the gateway.
type traffic struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	streams   prometheus.Gauge
	discovery *prometheus.CounterVec
}

// newTraffic makes the metrics, and registers them where there is somebody to read them. A gateway that follows another,
// after the configuration was read again, goes on with the same ones.
func newTraffic(register prometheus.Registerer) *traffic {
	return &traffic{
		requests: registered(register, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_kube_requests_total", Help: "Requests through the gateway, by verb and class of the answer.",
		}, []string{"verb", "code"})),
		seconds: registered(register, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sentry_kube_request_seconds", Help: "Time until the header of the answer was there.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"verb"})),
		streams: registered(register, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sentry_kube_streams", Help: "Watches, followed logs and upgraded connections through the gateway that are open.",
		})),
		discovery: registered(register, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sentry_kube_discovery_total", Help: "What clients asked about the API itself: answered from memory (hit), after the API server said that nothing changed (same), or from its answer (miss).",
		}, []string{"outcome"})),
	}
}

// registered gives the collector, or the one that was registered before it under its name.
func registered[C prometheus.Collector](register prometheus.Registerer, c C) C {
	if register == nil {
		return c
	}
	err := register.Register(c)
	if known := (prometheus.AlreadyRegisteredError{}); errors.As(err, &known) {
		return known.ExistingCollector.(C)
	}
	if err != nil {
		panic(err) // two metrics of one name: a mistake in this program
	}
	return c
}

var knownVerbs = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"}

// answered counts a request. What a client made up does not become a label.
func (t *traffic) answered(q *request, code int, took time.Duration) {
	verb := "other"
	if q != nil && slices.Contains(knownVerbs, q.verb) {
		verb = q.verb
	}
	class := strconv.Itoa(code/100) + "xx"
	if code == 0 {
		class = "none" // the client was gone
	}
	t.requests.WithLabelValues(verb, class).Inc()
	t.seconds.WithLabelValues(verb).Observe(took.Seconds())
}
