package cli

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// inProcess answers requests by calling a handler, so that there is one way to ask and to answer, with a daemon and
// without.
type inProcess struct{ handler http.Handler }

// RoundTrip begins the handler and returns when its answer begins. The handler goes on until it is done, or until the
// body is closed.
func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	reader, writer := io.Pipe()
	w := &pipeWriter{body: writer, header: http.Header{}, begun: make(chan struct{})}
	r = r.Clone(ctx)
	if r.Body == nil {
		r.Body = http.NoBody
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		defer func() {
			if cause := recover(); cause != nil { // http.ErrAbortHandler, or a defect that was logged
				w.WriteHeader(http.StatusInternalServerError)
				_ = writer.CloseWithError(io.ErrUnexpectedEOF)
				return
			}
			w.WriteHeader(http.StatusOK)
			_ = writer.Close()
		}()
		t.handler.ServeHTTP(w, r)
	}()
	<-w.begun
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, ContentLength: -1, Request: r,
		Body: &pipeBody{PipeReader: reader, cancel: cancel, ended: ended},
	}, nil
}

// pipeWriter is the handler's side of an answer.
type pipeWriter struct {
	body   *io.PipeWriter
	header http.Header
	status int
	sent   http.Header // header as it was when the answer began
	once   sync.Once
	begun  chan struct{} // closed when status and sent are final
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status = status
		w.sent = w.header.Clone()
		close(w.begun)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush does nothing: what is written is read at once.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// pipeBody is the caller's side of an answer. Its Close waits for the handler.
type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
	ended  chan struct{}
}

func (b *pipeBody) Close() error {
	b.cancel()
	err := b.PipeReader.Close()
	<-b.ended
	return err
}
