package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority is the cluster's own certificate authority. Its key is never written: what it signs is made when the cluster is.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sentry test cluster"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// issue gives a certificate and its key, as PEM, for a user of groups, and for a server of the names.
func (a *authority) issue(user string, groups []string, names ...string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	key, err = keyPEM(private)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, err
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// makeCerts writes all certificates, keys and kubeconfigs of a cluster whose API server answers at server, and, for pods, at the
// address of a service.
func makeCerts(l layout, server, host, service string) error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.at("certs", "ca.crt"), ca.pem, 0o644); err != nil {
		return err
	}
	pair := func(name, user string, groups []string, names ...string) error {
		cert, key, err := ca.issue(user, groups, names...)
		if err != nil {
			return err
		}
		if err := os.WriteFile(l.at("certs", name+".crt"), cert, 0o644); err != nil {
			return err
		}
		return os.WriteFile(l.at("certs", name+".key"), key, 0o600)
	}
	err = pair("kube-apiserver", "kube-apiserver", nil, host, service, "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
	if err != nil {
		return err
	}
	if err := pair("kubelet", "kubelet", nil, nodeName, host); err != nil {
		return err
	}
	if err := pair("addons", "addons", []string{"system:masters"}); err != nil {
		return err
	}
	if err := pair("kubelet-client", "kube-apiserver-kubelet-client", nil); err != nil {
		return err
	}
	serviceAccounts, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	key, err := keyPEM(serviceAccounts)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.at("certs", "service-accounts.key"), key, 0o600); err != nil {
		return err
	}
	for _, client := range []struct{ file, user, group string }{
		{l.kubeconfig(), "admin", "system:masters"},
		{l.at("certs", "kube-controller-manager.kubeconfig"), "system:kube-controller-manager", ""},
		{l.at("certs", "kube-scheduler.kubeconfig"), "system:kube-scheduler", ""},
		{l.at("certs", "kubelet.kubeconfig"), "system:node:" + nodeName, "system:nodes"},
		{l.at("certs", "tekton.kubeconfig"), "tekton-pipelines-controller", "system:masters"},
	} {
		var groups []string
		if client.group != "" {
			groups = []string{client.group}
		}
		cert, key, err := ca.issue(client.user, groups)
		if err != nil {
			return err
		}
		if err := os.WriteFile(client.file, kubeconfig(server, client.user, ca.pem, cert, key), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// kubeconfig is a configuration for clients with everything inside.
func kubeconfig(server, user string, ca, cert, key []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: sentry-test
  cluster: {server: "https://%s", certificate-authority-data: %s}
users:
- name: %[3]q
  user: {client-certificate-data: %[4]s, client-key-data: %[5]s}
contexts:
- name: sentry-test
  context: {cluster: sentry-test, user: %[3]q, namespace: default}
current-context: sentry-test
`, server, b64(ca), user, b64(cert), b64(key))
}
