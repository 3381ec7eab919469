package kube

import "sentry/internal/sentry"

// Recorder keeps what is created in the cluster. Calls come at once from several requests, and none after Access.Close
// has returned. A process that dies between two of them leaves an intent: whether that run exists is found out by
// LabelRequest.
type Recorder interface {
	// Intend tells that a PipelineRun with this Namespace and Nonce is about to be asked for. It is on disk when it returns;
	// with an error nothing is asked for.
	Intend(run sentry.PipelineRun) error
	// Created tells the Name and UID of the run with this Nonce, before the client gets its answer.
	Created(run sentry.PipelineRun) error
	// Dropped tells that nothing was created with this nonce, and never will be.
	Dropped(nonce string) error
}
