package forge_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sentry/internal/forge"
	"sentry/internal/sentry"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const canary = "canary-5f2b8e1d"

// internet has servers under names of its own: every host and port leads to a handler, over TLS or not. It keeps whatever
// was sent to each, for a canary to be looked for.
type internet struct {
	t       *testing.T
	ca      *authority
	handler map[string]http.HandlerFunc // by scheme://host:port
	lis     map[string]net.Listener

	mu   sync.Mutex
	seen map[string][]string // by origin: the requests, with header and body
}

func newInternet(t *testing.T) *internet {
	i := &internet{t: t, ca: newAuthority(t), handler: map[string]http.HandlerFunc{}, lis: map[string]net.Listener{}, seen: map[string][]string{}}
	return i
}

// serve puts a server at an origin.
func (i *internet) serve(origin string, h http.HandlerFunc) {
	i.t.Helper()
	u, err := url.Parse(origin)
	if err != nil {
		i.t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		i.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		i.mu.Lock()
		i.seen[origin] = append(i.seen[origin], fmt.Sprintf("%s %s %v %s", r.Method, r.RequestURI, r.Header, body))
		i.mu.Unlock()
		h(w, r)
	}))
	server.Listener.Close()
	server.Listener = lis
	if u.Scheme == "https" {
		cert := i.ca.issue(u.Hostname())
		server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	i.t.Cleanup(server.Close)
	i.lis[net.JoinHostPort(u.Hostname(), u.Port())] = lis
}

func (i *internet) dial(ctx context.Context, _, address string) (net.Conn, error) {
	lis := i.lis[strings.ToLower(address)]
	if lis == nil {
		return nil, fmt.Errorf("no such host: %s", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", lis.Addr().String())
}

// requests gives what an origin has seen.
func (i *internet) requests(origin string) []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.seen[origin]
}

// leaks gives the origins, other than one, that have seen the canary.
func (i *internet) leaks(but string) (origins []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for origin, all := range i.seen {
		for _, one := range all {
			if origin != but && strings.Contains(one, canary) {
				origins = append(origins, origin)
			}
		}
	}
	return origins
}

func (i *internet) network(o forge.NetworkOptions) *forge.Network {
	o.DialContext = i.dial
	o.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	n := forge.NewNetwork(o)
	i.t.Cleanup(n.Close)
	return n
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	n    int64
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, n: 1}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.key = key
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.n++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// A token is for one origin, however an answer leads elsewhere. Each row is one way to lead there.
func TestTokenStaysAtItsOrigin(t *testing.T) {
	const home = "https://forge.example:443"
	elsewhere := map[string]string{
		"another host":     "https://evil.example/x",
		"a sub-domain":     "https://api.forge.example/x",
		"a parent domain":  "https://example/x",
		"another port":     "https://forge.example:8443/x",
		"not encrypted":    "http://forge.example/x",
		"an IP address":    "https://127.0.0.1/x",
		"a suffix":         "https://forge.example.evil/x",
		"a prefix":         "https://evil.example/forge.example/x",
		"userinfo":         "https://forge.example@evil.example/x",
		"own userinfo":     "https://someone:pw@forge.example/x",
		"a look-alike":     "https://fоrge.example/x", // with a Cyrillic o
		"a trailing dot":   "https://forge.example./x",
		"no scheme":        "//evil.example/x",
		"a metadata host":  "http://169.254.169.254/latest/meta-data",
		"a mapped address": "http://[::ffff:a9fe:a9fe]/",
		"a backslash":      `https://evil.example\@forge.example/x`,
		"a file":           "file:///etc/passwd",
		"nothing":          "",
	}
	statuses := []int{http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect}
	for name, to := range elsewhere {
		t.Run(name, func(t *testing.T) {
			i := newInternet(t)
			status := 0
			i.serve(home, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", to)
				w.WriteHeader(status)
			})
			stranger := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"login":"evil","resources":{}}`) }
			for _, origin := range []string{
				"https://evil.example:443", "https://api.forge.example:443", "https://example:443", "https://forge.example:8443", "http://forge.example:80",
				"https://127.0.0.1:443", "https://forge.example.evil:443", "https://forge.example.:443", "http://169.254.169.254:80", "https://xn--frge-05d.example:443",
			} {
				i.serve(origin, stranger)
			}
			network := i.network(forge.NetworkOptions{Hosts: []forge.Host{{Origin: home, CAFile: i.ca.file}, {Origin: "https://evil.example:443", CAFile: i.ca.file}}})
			for _, status = range statuses {
				for _, kind := range []forge.Kind{forge.GitHub, forge.GitLab, forge.Gitea} {
					f := forge.New(forge.Options{Network: network})
					r := repository(t, "https://forge.example/acme/app", kind)
					f.Update([]*forge.Repository{r})
					if _, err := f.Access(t.Context(), r); err == nil {
						t.Errorf("%s, %d: it was believed", kind, status)
					} else if strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "pw@") {
						t.Errorf("%s, %d: it is told: %v", kind, status, err)
					}
					if err := f.SetStatus(t.Context(), r, forge.Status{Commit: strings.Repeat("a", 40), State: forge.Success, Context: "x"}); err == nil {
						t.Errorf("%s, %d: the status was set", kind, status)
					}
				}
				req, _ := http.NewRequest(http.MethodGet, "https://forge.example/", nil)
				req.Header.Set("PRIVATE-TOKEN", canary)
				req.Header.Set("X-Custom", canary)
				req.Header.Set("Authorization", "Bearer "+canary)
				if resp, err := network.Client(home).Do(req); err == nil && resp.StatusCode == http.StatusOK {
					t.Errorf("%d: the client went there", status)
				}
			}
			if leaks := i.leaks(home); len(leaks) > 0 {
				t.Errorf("%v have seen the token", leaks)
			}
			for origin := range i.seen {
				if origin != home {
					t.Errorf("%s was asked", origin)
				}
			}
		})
	}
}

// repository is one with the canary for a token.
func repository(t *testing.T, address string, kind forge.Kind) *forge.Repository {
	t.Helper()
	remote, err := sentry.ParseRemote(address, sentry.RemoteRules{InsecureHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	main, _ := sentry.ParsePattern("main")
	return &forge.Repository{
		Name: "app", Remote: remote, Kind: kind, Patterns: []sentry.Pattern{main}, Interval: time.Minute,
		Auth: forge.Auth{Key: "a file", Token: func() (sentry.Secret, error) { return sentry.NewSecret(canary), nil }},
	}
}

// Where an answer says that it goes on elsewhere, it does not go on.
func TestNextPageStaysAtItsOrigin(t *testing.T) {
	i := newInternet(t)
	const home = "https://forge.example:443"
	to := ""
	i.serve(home, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Link", "<"+to+`>; rel="next"`)
		fmt.Fprint(w, "[]")
	})
	i.serve("https://evil.example:443", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "[]") })
	i.serve("http://forge.example:80", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "[]") })
	network := i.network(forge.NetworkOptions{Hosts: []forge.Host{{Origin: home, CAFile: i.ca.file}, {Origin: "https://evil.example:443", CAFile: i.ca.file}}})
	for _, to = range []string{"https://evil.example/x?page=2", "http://forge.example/x", "//evil.example/", "https://forge.example@evil.example/", ":", "https://%zz/"} {
		for _, kind := range []forge.Kind{forge.GitHub, forge.GitLab, forge.Gitea} {
			f := forge.New(forge.Options{Network: network})
			r := repository(t, "https://forge.example/acme/app", kind)
			r.Patterns[0], _ = sentry.ParsePattern("release/*")
			f.Update([]*forge.Repository{r})
			if a := f.Heads(t.Context(), []forge.Ask{{Repository: r}})[0]; a.Err == nil && kind == forge.GitHub {
				t.Errorf("%s, %s: %s", kind, to, show(a))
			}
		}
	}
	if leaks := i.leaks(home); len(leaks) > 0 {
		t.Errorf("%v have seen the token", leaks)
	}
}

// The control: Go's own client, with the same header, goes there and takes it along.
func TestGoClientLeaks(t *testing.T) {
	i := newInternet(t)
	i.serve("http://forge.example:80", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://evil.example/", http.StatusFound)
	})
	i.serve("http://evil.example:80", func(http.ResponseWriter, *http.Request) {})
	req, _ := http.NewRequest(http.MethodGet, "http://forge.example/", nil)
	req.Header.Set("PRIVATE-TOKEN", canary)
	client := &http.Client{Transport: &http.Transport{DialContext: i.dial}}
	if _, err := client.Do(req); err != nil {
		t.Fatal(err)
	}
	if len(i.leaks("http://forge.example:80")) == 0 {
		t.Error("it does not: then what the test of the Network shows is nothing")
	}
}

// Redirects within the origin are followed, in any spelling of it, a few of them; not with another method.
func TestRedirectsWithin(t *testing.T) {
	i := newInternet(t)
	const home = "https://forge.example:443"
	i.serve(home, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upper":
			http.Redirect(w, r, "https://FORGE.Example:443/end", http.StatusMovedPermanently)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/post":
			http.Redirect(w, r, "/end", http.StatusFound)
		case "/keep":
			http.Redirect(w, r, "/end", http.StatusTemporaryRedirect)
		case "/end":
			fmt.Fprintf(w, "%s ", r.Method)
		}
	})
	network := i.network(forge.NetworkOptions{Hosts: []forge.Host{{Origin: home, CAFile: i.ca.file}}})
	get := func(method, path string) (string, error) {
		req, _ := http.NewRequest(method, "https://forge.example"+path, strings.NewReader("x"))
		resp, err := network.Client(home).Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return fmt.Sprint(resp.ProtoMajor, " ", string(body)), err
	}
	if got, err := get("GET", "/upper"); err != nil || got != "2 GET " {
		t.Errorf("%q %v", got, err)
	}
	if got, err := get("GET", "/loop"); err == nil {
		t.Errorf("a loop ended with %q", got)
	}
	if n := len(i.requests(home)); n > 10 {
		t.Errorf("%d requests for a loop", n)
	}
	if got, err := get("POST", "/post"); err == nil {
		t.Errorf("a POST became %q", got)
	}
	if got, err := get("POST", "/keep"); err != nil || got != "2 POST " {
		t.Errorf("%q %v", got, err)
	}
	if all := i.requests(home); !strings.HasSuffix(all[len(all)-1], " x") {
		t.Errorf("the body stayed behind: %v", all[len(all)-1])
	}
}

// Answers are bounded, packed or not; what goes on too long is an error, not a shorter answer.
func TestBodiesAreBounded(t *testing.T) {
	i := newInternet(t)
	const home = "http://forge.example:80"
	i.serve(home, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bomb" {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.CopyN(z, zeros{}, 64<<20)
			z.Close()
			return
		}
		_, _ = io.CopyN(w, zeros{}, 64<<20)
	})
	register := prometheus.NewRegistry()
	network := i.network(forge.NetworkOptions{Register: register})
	for _, path := range []string{"/endless", "/bomb"} {
		resp, err := network.Client(home).Get("http://forge.example" + path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err == nil || n > 9<<20 {
			t.Errorf("%s: %d bytes, and %v", path, n, err)
		}
	}
	if err := testutil.GatherAndCompare(register, strings.NewReader(`
# HELP sentry_forge_requests_total Requests to the API of a forge, and questions over Git, by what came of them.
# TYPE sentry_forge_requests_total counter
sentry_forge_requests_total{host="forge.example",outcome="2xx",protocol="api"} 2
`), "sentry_forge_requests_total"); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Certificates are looked at: of a stranger's authority, of another name, and of none. A file that changes is read again.
func TestCertificates(t *testing.T) {
	i := newInternet(t)
	const home = "https://forge.example:443"
	i.serve(home, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	file := filepath.Join(t.TempDir(), "ca.pem")
	stranger := newAuthority(t)
	other, err := os.ReadFile(stranger.file)
	if err != nil {
		t.Fatal(err)
	}
	network := i.network(forge.NetworkOptions{Hosts: []forge.Host{{Origin: home, CAFile: file}}})
	get := func() error {
		resp, err := network.Client(home).Get("https://forge.example/")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := get(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("without the file: %v", err)
	}
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(time.Duration(len(data)) * time.Second) // another time than the last, on any clock
		if err := os.Chtimes(file, later, later); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("no certificate"))
	if err := get(); err == nil || !strings.Contains(err.Error(), "no certificate in PEM form") {
		t.Errorf("with something else: %v", err)
	}
	write(other)
	if err := get(); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("with a stranger's: %v", err)
	}
	if _, err := tls.Dial("tcp", i.lis["forge.example:443"].Addr().String(), named(network.TLS(home), "forge.example")); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("for the Git side: %v", err)
	}
	own, _ := os.ReadFile(i.ca.file)
	write(append(own, '\n'))
	if err := get(); err != nil {
		t.Errorf("with the right one: %v", err)
	}
	conn, err := tls.Dial("tcp", i.lis["forge.example:443"].Addr().String(), named(network.TLS(home), "forge.example"))
	if err != nil {
		t.Errorf("for the Git side: %v", err)
	} else {
		conn.Close()
	}
	if _, err := tls.Dial("tcp", i.lis["forge.example:443"].Addr().String(), named(network.TLS(home), "other.example")); !errors.As(err, new(x509.HostnameError)) {
		t.Errorf("of another name: %v", err)
	}
	// Another origin does not believe this authority.
	i.serve("https://other.example:443", func(w http.ResponseWriter, _ *http.Request) {})
	if _, err := network.Client("https://other.example:443").Get("https://other.example/"); !errors.As(err, new(x509.UnknownAuthorityError)) {
		t.Errorf("the other origin: %v", err)
	}
}

func named(c *tls.Config, name string) *tls.Config {
	c.ServerName = name
	return c
}

// A client certificate is shown to the origin that it is for.
func TestClientCertificate(t *testing.T) {
	i := newInternet(t)
	pool := x509.NewCertPool()
	pool.AddCert(i.ca.cert)
	var who string
	lis, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{i.ca.issue("forge.example")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { who = r.TLS.PeerCertificates[0].Subject.CommonName })}
	go func() { _ = server.Serve(lis) }()
	t.Cleanup(func() { server.Close() })
	i.lis["forge.example:443"] = lis
	mine := i.ca.issue("sentry")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, cert, "CERTIFICATE", mine.Certificate[0])
	der, err := x509.MarshalPKCS8PrivateKey(mine.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, key, "PRIVATE KEY", der)
	const home = "https://forge.example:443"
	network := i.network(forge.NetworkOptions{Hosts: []forge.Host{{Origin: home, CAFile: i.ca.file, CertFile: cert, KeyFile: key}}})
	resp, err := network.Client(home).Get("https://forge.example/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if who != "sentry" {
		t.Errorf("it was shown the certificate of %q", who)
	}
	network.Update([]forge.Host{{Origin: home, CAFile: i.ca.file}})
	if resp, err := network.Client(home).Get("https://forge.example/"); err == nil {
		resp.Body.Close()
		t.Error("without a certificate it was let in")
	}
}

// A proxy carries everything, and sees nothing of what goes to https.
func TestProxy(t *testing.T) {
	i := newInternet(t)
	const home = "https://forge.example:443"
	i.serve(home, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	var tunnels []string
	var heard bytes.Buffer
	ended := make(chan struct{}) // the one tunnel
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		tunnels = append(tunnels, r.Method+" "+r.Host)
		fmt.Fprint(&heard, r.Header)
		up, err := i.dial(r.Context(), "tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		down, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		fmt.Fprint(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(up, down); up.Close() }()
		_, _ = io.Copy(io.MultiWriter(down, &heard), up)
		down.Close()
	}))
	t.Cleanup(proxy.Close)
	address, _ := url.Parse(proxy.URL)
	network := forge.NewNetwork(forge.NetworkOptions{
		Hosts: []forge.Host{{Origin: home, CAFile: i.ca.file}}, Proxy: func(*http.Request) (*url.URL, error) { return address, nil },
	})
	req, _ := http.NewRequest(http.MethodGet, "https://forge.example/", nil)
	req.Header.Set("Authorization", "Bearer "+canary)
	resp, err := network.Client(home).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	network.Close()
	<-ended
	if string(body) != "hello" || len(tunnels) != 1 || tunnels[0] != "CONNECT forge.example:443" || strings.Contains(heard.String(), canary) {
		t.Errorf("%q over %v", body, tunnels)
	}
}

// Requests over one client share a connection.
func TestConnectionsAreKept(t *testing.T) {
	i := newInternet(t)
	const home = "https://forge.example:443"
	i.serve(home, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
	dials := 0
	network := forge.NewNetwork(forge.NetworkOptions{
		Hosts: []forge.Host{{Origin: home, CAFile: i.ca.file}}, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials++
			return i.dial(ctx, network, address)
		},
	})
	t.Cleanup(network.Close)
	for range 20 {
		resp, err := network.Client(home).Get("https://forge.example/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.ProtoMajor != 2 {
			t.Fatalf("HTTP/%d", resp.ProtoMajor)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections", dials)
	}
}

// recording is a Network that goes nowhere, and notes where it was to go.
func recording(asked *[]string) *forge.Network {
	var mu sync.Mutex
	return forge.NewNetwork(forge.NetworkOptions{Proxy: func(r *http.Request) (*url.URL, error) {
		mu.Lock()
		defer mu.Unlock()
		*asked = append(*asked, r.URL.String())
		return nil, errors.New("nowhere to go")
	}})
}
