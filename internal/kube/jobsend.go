package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// sendTime is how long it may take until a line is in the hands of the container.
const sendTime = 30 * time.Second

// SendToJob writes a line to the standard input of the Job's container, which must be running. An empty line is written
// before it, so that it is a line of its own also where an earlier one was cut off: the program passes over what it cannot
// read. It is tried once, by WebSocket, and by SPDY where the server does not know the former for this. After an error
// nobody knows whether the line arrived.
func (c *Cluster) SendToJob(ctx context.Context, ref JobRef, line []byte) error {
	a, err := c.tracker()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, sendTime, fmt.Errorf("the container has not taken it within %s", sendTime))
	defer cancel()
	pod, err := a.jobPod(ctx, ref)
	if err != nil {
		return err
	}
	if !pod.running() {
		return fmt.Errorf("the Job %s: the container of %s does not run yet", ref, pod.place())
	}
	query := url.Values{"container": {JobContainer}, "stdin": {"true"}}
	address, err := url.Parse(a.base + podPath(ref.Namespace, pod.Metadata.Name, "attach") + "?" + query.Encode())
	if err != nil {
		return err
	}
	stream, err := c.attach(address)
	if err == nil {
		input := bytes.NewReader(append(append([]byte{'\n'}, line...), '\n'))
		err = stream.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: input})
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("cannot send to Job %s, %s: %w", ref, pod.place(), errors.New(printable(err.Error())))
	}
	return nil
}

// attach prepares a connection to a container.
func (c *Cluster) attach(address *url.URL) (remotecommand.Executor, error) {
	config := c.restConfig()
	socket, err := remotecommand.NewWebSocketExecutor(config, http.MethodGet, address.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, address)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}
