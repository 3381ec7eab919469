package kube

import (
	"io"
	"time"
)

// JobFollow is for one FollowJob.
type JobFollow struct {
	// Line is given each line of the container's output, without its end, by one goroutine. Lines may come again, from some line
	// before on, where the connection was lost; some may be missing where the node has thrown them away. A line of standard error
	// is one as well. An error of it ends FollowJob.
	Line func(line []byte) error
	// Waiting is told why the container does not run yet, whenever that changes; nil for nobody.
	Waiting func(why string)
	// StartTimeout is how long the container may take until it runs; 0 for ever. Time in which the API server does not answer does
	// not end it.
	StartTimeout time.Duration
	// Log gets lines for people: that the API server does not answer, that output is lost, that a Job has two pods; nil for nobody.
	Log io.Writer
}
