package sentry

import (
	"errors"
	"fmt"
	"time"
)

// FaultKind says what the caller of a forge or Git server can do about an error.
type FaultKind string

// The kinds of fault, by what to do next.
const (
	Transient    FaultKind = "transient"    // ask again later, with backoff
	RateLimited  FaultKind = "rate_limited" // ask again after RetryAfter, not before
	Unauthorized FaultKind = "unauthorized" // the credentials are refused: a person must act
	NotFound     FaultKind = "not_found"    // no such repository, or no right to see it
	Invalid      FaultKind = "invalid"      // the answer is not what the protocol says: do not believe it
)

// Fault is an error of a remote side together with what to do about it. Its text never holds a credential.
type Fault struct {
	Kind       FaultKind
	RetryAfter time.Duration // for RateLimited, and where the other side said so; 0 where it did not
	Err        error
}

func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

// Faultf makes a Fault of a kind from a format, as fmt.Errorf does.
func Faultf(kind FaultKind, format string, args ...any) error {
	return &Fault{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// AsFault gives the Fault in the chain of err, or one of kind Transient that wraps err where there is none.
func AsFault(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return &Fault{Kind: Transient, Err: err}
}
