package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// names answers pods who ask for the address of a service, and says of every other name that there is none: nothing here asks
// anybody outside.
type names struct {
	conn net.PacketConn
}

func listenDNS(c *cluster) (names, error) {
	conn, err := net.ListenPacket("udp", net.JoinHostPort(c.Network.dns(), "53"))
	if err != nil {
		return names{}, fmt.Errorf("cannot answer for the names of services: %w", err)
	}
	return names{conn}, nil
}

// serve answers until ctx ends.
func (n names) serve(ctx context.Context, a *api) {
	defer context.AfterFunc(ctx, func() { n.conn.Close() })()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		question := make([]byte, 4096)
		size, from, err := n.conn.ReadFrom(question)
		if err != nil {
			return
		}
		all.Go(func() {
			answer, err := reply(ctx, a, question[:size])
			if err != nil {
				fmt.Fprintf(os.Stderr, "%s asks what cannot be answered: %v\n", from, err)
				return
			}
			n.conn.WriteTo(answer, from)
		})
	}
}

// reply is the answer to one message.
func reply(ctx context.Context, a *api, message []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired, RecursionAvailable: true},
		Questions: []dnsmessage.Question{question},
	}
	addresses, err := lookUp(ctx, a, question.Name.String())
	switch {
	case errors.Is(err, errNoName):
		answer.RCode = dnsmessage.RCodeNameError
	case err != nil:
		answer.RCode = dnsmessage.RCodeServerFailure
	case question.Type == dnsmessage.TypeA || question.Type == dnsmessage.TypeALL:
		for _, ip := range addresses {
			answer.Answers = append(answer.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: ip.As4()},
			})
		}
	}
	return answer.Pack()
}

var errNoName = errors.New("there is no such name")

// lookUp gives the addresses of SERVICE.NAMESPACE.svc.cluster.local.: its own, or those of its endpoints where it has none.
func lookUp(ctx context.Context, a *api, name string) ([]netip.Addr, error) {
	rest, ok := strings.CutSuffix(strings.ToLower(name), ".svc.cluster.local.")
	of, namespace, two := strings.Cut(rest, ".")
	if !ok || !two || strings.Contains(namespace, ".") || of == "" || namespace == "" {
		return nil, errNoName
	}
	var found service
	err := a.call(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/services/"+of, nil, &found)
	if refused := new(status); errors.As(err, &refused) && refused.Code < 500 {
		return nil, errNoName
	}
	if err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(found.Spec.ClusterIP); err == nil {
		return []netip.Addr{ip}, nil
	}
	ready := map[netip.Addr]bool{}
	for _, port := range found.Spec.Ports {
		all, err := readyEndpoints(ctx, a, namespace, of, port.Name)
		if err != nil {
			return nil, err
		}
		for _, one := range all {
			if at, err := netip.ParseAddrPort(one); err == nil {
				ready[at.Addr()] = true
			}
		}
	}
	var addresses []netip.Addr
	for ip := range ready {
		addresses = append(addresses, ip)
	}
	return addresses, nil
}
