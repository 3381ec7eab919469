module sentry/components/cluster

go 1.26.0

require golang.org/x/net v0.61.0
