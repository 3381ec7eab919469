package kube

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"sentry/internal/sentry"
)

// Bounds of finding out which cluster this is.
const (
	markTime       = 5 * time.Second  // for the questions before a creation
	markPause      = 30 * time.Second // until they are asked again where they were not answered
	maxAuthorities = 4                // of a bundle
)

// marked remembers which cluster this is. Its zero value is ready.
type marked struct {
	mu     sync.Mutex
	known  map[string]*sentry.ClusterID // by namespace
	failed time.Time                    // when it was asked in vain
}

// mark tells which cluster this is, to be recorded with a run that is about to be created in a namespace. Where the API
// server does not tell in time, it is what is known without it.
func (c *Cluster) mark(ctx context.Context, namespace string) *sentry.ClusterID {
	m := &c.marked
	m.mu.Lock()
	defer m.mu.Unlock()
	if id := m.known[namespace]; id != nil {
		return id
	}
	weak := c.weakID()
	if !m.failed.IsZero() && time.Since(m.failed) < markPause {
		return &weak
	}
	limited, cancel := context.WithTimeoutCause(ctx, markTime, fmt.Errorf("no answer within %s", markTime))
	defer cancel()
	id, err := c.identify(limited, namespace)
	if err != nil && ctx.Err() == nil {
		m.failed = time.Now()
	}
	if err != nil {
		return &weak
	}
	if m.known == nil {
		m.known = map[string]*sentry.ClusterID{}
	}
	m.known[namespace] = &id
	return &id
}

// Mark tells which cluster this is, to be remembered with a Job that is about to be created in a namespace.
func (c *Cluster) Mark(ctx context.Context, namespace string) *sentry.ClusterID {
	return c.mark(ctx, namespace)
}

// identify asks which cluster this is, as it is now.
func (c *Cluster) identify(ctx context.Context, namespace string) (sentry.ClusterID, error) {
	id := c.weakID()
	a, err := c.tracker()
	if err != nil {
		return id, err
	}
	if id.UID, err = a.namespaceUID(ctx, "kube-system"); err != nil {
		return id, err
	}
	id.NamespaceUID, err = a.namespaceUID(ctx, namespace)
	return id, err
}

// namespaceUID gives the UID of a namespace; "" where it may not be read, or does not exist.
func (a *api) namespaceUID(ctx context.Context, name string) (string, error) {
	o, err := a.get(ctx, "/api/v1/namespaces/"+url.PathEscape(name))
	switch {
	case isCode(err, http.StatusForbidden), isCode(err, http.StatusNotFound):
		return "", nil
	case err != nil:
		return "", err
	}
	return o.Metadata.UID, nil
}

// weakID tells which cluster this is as far as the credentials do.
func (c *Cluster) weakID() sentry.ClusterID {
	id := sentry.ClusterID{Server: c.config.Host}
	if c.pod {
		id.Server = sentry.InPod
	}
	bundle := c.config.CAData
	if len(bundle) == 0 && c.config.CAFile != "" {
		bundle, _ = os.ReadFile(c.config.CAFile) // without it less is known
	}
	for len(id.Authorities) < maxAuthorities {
		var block *pem.Block
		if block, bundle = pem.Decode(bundle); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		sum := sha256.Sum256(certificate.RawSubjectPublicKeyInfo)
		if key := hex.EncodeToString(sum[:8]); !slices.Contains(id.Authorities, key) {
			id.Authorities = append(id.Authorities, key)
		}
	}
	return id
}

// elsewhere is what cannot be found because it was created in another cluster than the present one.
type elsewhere struct{ was, is sentry.ClusterID }

// Error says so.
func (e *elsewhere) Error() string {
	return fmt.Sprintf("it was created in another cluster: %s, and Sentry is configured for %s. What becomes of it there is unknown", e.was, e.is)
}

// whose tells whether what is not found here, in a namespace, was created here: an *elsewhere where that is not certain,
// another error where the API server does not tell. Of what has no mark it is taken for granted.
func (c *Cluster) whose(ctx context.Context, was *sentry.ClusterID, namespace string) error {
	if was == nil {
		return nil
	}
	now, err := c.identify(ctx, namespace)
	if err != nil {
		return err
	}
	if !was.Same(now) {
		return &elsewhere{*was, now}
	}
	return nil
}
