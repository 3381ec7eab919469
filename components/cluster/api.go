package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// api is the API server as the parts that are made here see it: objects as JSON, with the rights of an administrator.
type api struct {
	server string // "https://" and the address
	client *http.Client
}

func newAPI(c *cluster) (*api, error) {
	pair, err := tls.LoadX509KeyPair(c.at("certs", "addons.crt"), c.at("certs", "addons.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.at("certs", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &api{server: "https://" + c.Server, client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, MaxIdleConnsPerHost: 4,
	}}}, nil
}

// status is what the API server says when it refuses.
type status struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (s *status) Error() string { return s.Message }

// call asks for something at a path: in is what is sent, out what comes back; both may be nil.
func (a *api) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, body)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		request.Header.Set("Content-Type", "application/merge-patch+json")
	}
	answer, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		refused := &status{Code: answer.StatusCode, Message: answer.Status}
		_ = json.Unmarshal(data, refused) // or it is the status line alone
		return refused
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// meta is what every object has.
type meta struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace,omitempty"`
	UID             string            `json:"uid,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
	DeletedAt       string            `json:"deletionTimestamp,omitempty"`
	GraceSeconds    int               `json:"deletionGracePeriodSeconds,omitempty"`
}

// object is something with a name: a type of this program that embeds item.
type object interface{ about() meta }

type item struct {
	Metadata meta `json:"metadata"`
}

func (i item) about() meta { return i.Metadata }

// follow lists the objects at a path and watches them until ctx ends. After the list and after each change it tells all that
// there are, by UID. Whatever breaks is begun again.
func follow[T object](ctx context.Context, a *api, path string, tell func(all map[string]T)) {
	for ctx.Err() == nil {
		if err := followOnce(ctx, a, path, tell); err != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second): // the API server may be down
			}
		}
	}
}

func followOnce[T object](ctx context.Context, a *api, path string, tell func(all map[string]T)) error {
	var list struct {
		Metadata meta `json:"metadata"`
		Items    []T  `json:"items"`
	}
	if err := a.call(ctx, http.MethodGet, path, nil, &list); err != nil {
		return err
	}
	all := map[string]T{}
	for _, o := range list.Items {
		all[o.about().UID] = o
	}
	tell(all)

	watch := url.Values{"watch": {"1"}, "resourceVersion": {list.Metadata.ResourceVersion}}
	sign := "?"
	if strings.Contains(path, "?") {
		sign = "&"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path+sign+watch.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	events := json.NewDecoder(bufio.NewReader(answer.Body))
	for {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); err == io.EOF {
			return nil // it ends every few minutes
		} else if err != nil {
			return err
		}
		if event.Type == "ERROR" {
			return fmt.Errorf("the watch ends: %s", event.Object)
		}
		var o T
		if err := json.Unmarshal(event.Object, &o); err != nil {
			return err
		}
		if event.Type == "DELETED" {
			delete(all, o.about().UID)
		} else {
			all[o.about().UID] = o
		}
		tell(all)
	}
}
