package kube

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// denial is an answer of the gateway's own, in the form in which the API server says no.
type denial struct {
	code    int
	reason  metav1.StatusReason
	message string
}

// Error gives the message.
func (d *denial) Error() string { return d.message }

func refuse(code int, reason metav1.StatusReason, format string, args ...any) *denial {
	return &denial{code, reason, fmt.Sprintf(format, args...)}
}

// oddf refuses a request that nobody who means well makes.
func oddf(format string, args ...any) error {
	return refuse(http.StatusBadRequest, metav1.StatusReasonBadRequest, "Sentry's gateway does not pass this on: "+format, args...)
}

// failure is what a client is told of an error: denials as they are, others not at all, for they may tell what is not
// meant for it.
func failure(err error) *denial {
	var r *denial
	if errors.As(err, &r) {
		return r
	}
	return refuse(http.StatusInternalServerError, metav1.StatusReasonInternalError, "Sentry's gateway could not do this; its log tells why")
}

// body is the Status as JSON.
func (d *denial) body() []byte {
	raw, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: d.message, Reason: d.reason, Code: int32(d.code),
	})
	if err != nil {
		panic(err) // a struct of texts and a number
	}
	return append(raw, '\n')
}

func (d *denial) header(h http.Header) {
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-cache, private")
	h.Set("Content-Length", strconv.Itoa(len(d.body())))
}

// write answers a request.
func (d *denial) write(w http.ResponseWriter) {
	d.header(w.Header())
	w.WriteHeader(d.code)
	_, _ = w.Write(d.body()) // a client that is gone needs no answer
}

// response is the answer as one of the API server's, for the proxy to pass on.
func (d *denial) response(req *http.Request) *http.Response {
	resp := &http.Response{
		StatusCode: d.code, Status: strconv.Itoa(d.code) + " " + http.StatusText(d.code), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(d.body())), ContentLength: int64(len(d.body())), Request: req,
	}
	d.header(resp.Header)
	return resp
}
