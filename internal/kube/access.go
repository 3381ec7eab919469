package kube

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Access is a deployment's access to the cluster.
type Access struct {
	gateway    *Gateway
	id         Identity
	recorder   Recorder
	rule       rule
	user       string // to impersonate; "" for nobody
	token      [sha256.Size]byte
	kubeconfig []byte

	ctx    context.Context // ends with the access
	cancel context.CancelFunc

	mu       sync.Mutex
	closed   bool
	requests int
	under    sync.WaitGroup // requests; Add only under mu while closed is false
}

// Kubeconfig is what the commands of the deployment find the cluster with. It holds the token, and nothing else that is
// secret.
func (a *Access) Kubeconfig() []byte { return a.kubeconfig }

// Close ends the token and all that is under way with it, and waits for that. A PipelineRun that is being created at
// this moment gets createGrace to become known; else its intent stays. Afterwards nothing comes to the Recorder.
func (a *Access) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.gateway.mu.Lock()
	delete(a.gateway.accesses, a.token)
	a.gateway.mu.Unlock()
	a.cancel()
	a.under.Wait()
}

// begin admits a request. The context ends with the client's interest or with the access; end must be called. The error
// is a refusal.
func (a *Access) begin(client context.Context) (ctx context.Context, end func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, nil, errUnknownToken
	}
	if a.requests >= a.gateway.requests {
		return nil, nil, errTooMany
	}
	a.requests++
	a.under.Add(1)
	ctx, cancel := context.WithCancelCause(client)
	stop := context.AfterFunc(a.ctx, func() { cancel(errUnknownToken) })
	return ctx, func() {
		stop()
		cancel(nil)
		a.mu.Lock()
		a.requests--
		a.mu.Unlock()
		a.under.Done()
	}, nil
}

// How long the creation of a PipelineRun may take, once it is asked for: longer than the API server's own minute. And how
// much of that is left when the access is closed.
const (
	createTimeout = 90 * time.Second
	createGrace   = 5 * time.Second
)

// creating gives the context for a creation: it goes on where the client is gone, for what becomes of it must be known.
func (a *Access) creating(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	var grace *time.Timer
	started := make(chan struct{})
	stop := context.AfterFunc(a.ctx, func() {
		grace = time.AfterFunc(createGrace, cancel)
		close(started)
	})
	return ctx, func() {
		if !stop() {
			<-started
			grace.Stop()
		}
		cancel()
	}
}

// newKubeconfig writes a kubeconfig that needs no other file.
func newKubeconfig(server string, authority []byte, token, namespace string) ([]byte, error) {
	const name = "sentry"
	raw, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: server, CertificateAuthorityData: authority}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name, Namespace: namespace}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write a kubeconfig: %w", err)
	}
	return raw, nil
}
