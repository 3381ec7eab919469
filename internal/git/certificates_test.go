//go:build unix

package git

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sentry/internal/git/gitwire"
	"sentry/internal/sentry"
)

// A server with a certificate of its own authority, which wants one of ours, is cloned from with the files for its origin,
// and with those only.
func TestCertificatesOfAnOrigin(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	ours, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, content []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	certFile, keyFile := write("cert.pem", "CERTIFICATE", ours), write("key.pem", "PRIVATE KEY", secret)

	var caFile, origin string
	known := true
	transport := gitwire.NewTransport(func(string) *tls.Config {
		authorities, pair := x509.NewCertPool(), tls.Certificate{Certificate: [][]byte{ours}, PrivateKey: key}
		raw, err := os.ReadFile(caFile)
		if err != nil || !authorities.AppendCertsFromPEM(raw) {
			t.Error(err)
		}
		return &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{pair}}
	})
	b := newBench(t, Options{Transport: transport, Certificates: func(at string) (string, string, string) {
		if at != origin || !known {
			return "", "", ""
		}
		return caFile, certFile, keyFile
	}})
	server := httptest.NewUnstartedServer(b.server)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	caFile = write("ca.pem", "CERTIFICATE", server.Certificate().Raw)

	repo := b.server.Repo(t, "qa.git")
	commit := repo.Commit(t, "main", map[string]string{"a": "1"}, "first")
	remote := b.remote(server.URL + "/qa.git")
	origin = remote.Origin()
	var said syncBuffer
	got, err := b.sources.Workspace(t.Context(), Want{Remote: remote, Branch: "main"}, b.nextDir(), &said)
	if err != nil || got != commit {
		t.Fatalf("%s, %v\n%s", got, err, said.String())
	}
	known = false
	repo.Commit(t, "main", map[string]string{"a": "2"}, "second")
	if _, err := b.sources.Workspace(t.Context(), Want{Remote: remote, Branch: "main"}, b.nextDir(), &said); err == nil {
		t.Error("cloned from a server whose certificate nobody vouches for")
	} else if kind := sentry.AsFault(err).Kind; kind == sentry.NotFound {
		t.Errorf("%s: %v", kind, err)
	}
}
