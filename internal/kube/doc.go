// Package kube is Sentry's side of Kubernetes and Tekton. Connect finds the cluster and its credentials. The gateway
// lends the cluster to commands without them: a reverse proxy on loopback with a token for each deployment, which
// labels what is created, records each PipelineRun and writes down each mutation. What was recorded is followed to its
// end, cancelled, or found again after a crash, by the uid of each run and by the labels.
//
// An API server that does not answer is unknown, never a failure of what runs in the cluster.
package kube
