// Package kube measures what the gateway to Kubernetes costs, beside the same requests without it, on a real API server.
package kube
