package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics answers GET /metrics.
func (h *handler) metrics(w http.ResponseWriter, r *http.Request) error {
	if h.Metrics == nil {
		return noSuchRoute()
	}
	h.exposition.ServeHTTP(w, r)
	return nil
}

// exposition is how metrics are told: one that fails does not hide the others.
func exposition(o Options) http.Handler {
	return promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 8, Timeout: 10 * time.Second,
	})
}
