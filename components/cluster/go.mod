module sentry/components/cluster

go 1.26.0
