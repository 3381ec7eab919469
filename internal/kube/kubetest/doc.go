// Package kubetest gives tests a real Kubernetes with real Tekton: the one that `make cluster` starts, or any that KUBECONFIG
// names. Each test works in namespaces of its own, which go with it, so that several can share the cluster.
package kubetest
