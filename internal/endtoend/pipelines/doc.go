// Package pipelines has the real Sentry roll out what creates PipelineRuns in a real Kubernetes with Tekton. It has tests
// only.
//
// The commands are scripts as people have them: `kubectl create -f` of a file with generateName, without a word of Sentry
// in it. The cluster, asked with an administrator's credentials, is the evidence; so is what the scripts write down.
//
// Without a cluster the tests are skipped; `make cluster` starts one.
package pipelines
