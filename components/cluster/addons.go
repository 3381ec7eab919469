package main

import (
	"context"
	"os/signal"
	"sync"
	"syscall"
)

// addons is a part of the cluster: what a real one has from kube-proxy, a DNS server and a driver for volumes, as far as tests
// need it. It changes no packet filter, so that it can neither leave rules behind nor quarrel about them.
func addons(l layout) error {
	c, err := loadCluster(l)
	if err != nil {
		return err
	}
	a, err := newAPI(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := ip("route", "add", "local", c.Network.services(), "dev", "lo"); err != nil { // all of them are here
		return err
	}
	names, err := listenDNS(c)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	all.Go(func() { names.serve(ctx, a) })
	all.Go(func() { newServices(c, a).run(ctx) })
	all.Go(func() { newVolumes(c, a).run(ctx) })
	all.Wait()
	return nil
}
