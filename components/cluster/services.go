package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

// services gives the TCP ports of every Service with an address of its own to whoever connects, pod or host: each connection
// goes to a ready endpoint.
type services struct {
	c *cluster
	a *api

	listeners map[string]net.Listener // by address and port
	conns     sync.WaitGroup
}

func newServices(c *cluster, a *api) *services {
	return &services{c: c, a: a, listeners: map[string]net.Listener{}}
}

type service struct {
	item
	Spec struct {
		ClusterIP string `json:"clusterIP"`
		Ports     []struct {
			Name     string `json:"name"`
			Port     int    `json:"port"`
			Protocol string `json:"protocol"`
		} `json:"ports"`
	} `json:"spec"`
}

// slice is an EndpointSlice.
type slice struct {
	item
	Endpoints []struct {
		Addresses  []string `json:"addresses"`
		Conditions struct {
			Ready *bool `json:"ready"`
		} `json:"conditions"`
	} `json:"endpoints"`
	Ports []struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	} `json:"ports"`
}

// run follows the Services until ctx ends.
func (s *services) run(ctx context.Context) {
	follow(ctx, s.a, "/api/v1/services", func(all map[string]service) { s.set(ctx, all) })
	for _, listener := range s.listeners {
		listener.Close()
	}
	s.conns.Wait()
}

// set listens for the services that are new, and for those that are gone no more.
func (s *services) set(ctx context.Context, all map[string]service) {
	wanted := map[string]bool{}
	for _, service := range all {
		if service.Spec.ClusterIP == "" || service.Spec.ClusterIP == "None" {
			continue
		}
		for _, port := range service.Spec.Ports {
			at := net.JoinHostPort(service.Spec.ClusterIP, fmt.Sprint(port.Port))
			if port.Protocol != "TCP" {
				continue
			}
			wanted[at] = true
			if s.listeners[at] == nil {
				s.listen(ctx, at, service.Metadata, port.Name)
			}
		}
	}
	for at, listener := range s.listeners {
		if !wanted[at] {
			listener.Close()
			delete(s.listeners, at)
		}
	}
}

// listen passes on what comes to one port of a service, until its listener is closed.
func (s *services) listen(ctx context.Context, at string, of meta, port string) {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		fmt.Fprintf(os.Stderr, "service %s/%s: %v\n", of.Namespace, of.Name, err)
		return
	}
	s.listeners[at] = listener
	s.conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() {
				if err := s.pass(ctx, conn.(*net.TCPConn), of, port); err != nil {
					fmt.Fprintf(os.Stderr, "service %s/%s: %v\n", of.Namespace, of.Name, err)
				}
			})
		}
	})
}

// pass connects a client with an endpoint. Without one that is ready the client sees its connection reset.
func (s *services) pass(ctx context.Context, conn *net.TCPConn, of meta, port string) error {
	defer conn.Close()
	endpoints := []string{s.c.Server}
	var err error
	if of.Namespace != "default" || of.Name != "kubernetes" { // that is the API server itself, which no slice names here
		endpoints, err = readyEndpoints(ctx, s.a, of.Namespace, of.Name, port)
	}
	if err == nil && len(endpoints) == 0 {
		err = fmt.Errorf("no endpoint is ready")
	}
	if err != nil {
		conn.SetLinger(0)
		return err
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	to, err := dialer.DialContext(ctx, "tcp", endpoints[rand.IntN(len(endpoints))])
	if err != nil {
		conn.SetLinger(0)
		return err
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { conn.Close(); to.Close() })()
	var back sync.WaitGroup
	back.Go(func() {
		io.Copy(conn, to)
		conn.CloseWrite()
	})
	io.Copy(to, conn)
	to.(*net.TCPConn).CloseWrite()
	back.Wait()
	return nil
}

// readyEndpoints are the addresses and ports that are ready for a named port of a service; without a name every port counts.
func readyEndpoints(ctx context.Context, a *api, namespace, service, port string) ([]string, error) {
	var list struct {
		Items []slice `json:"items"`
	}
	path := "/apis/discovery.k8s.io/v1/namespaces/" + namespace + "/endpointslices?" +
		url.Values{"labelSelector": {"kubernetes.io/service-name=" + service}}.Encode()
	if err := a.call(ctx, http.MethodGet, path, nil, &list); err != nil {
		return nil, err
	}
	var all []string
	for _, slice := range list.Items {
		for _, p := range slice.Ports {
			if p.Name != port {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready == nil || *e.Conditions.Ready {
					all = append(all, net.JoinHostPort(e.Addresses[0], fmt.Sprint(p.Port)))
				}
			}
		}
	}
	return all, nil
}
