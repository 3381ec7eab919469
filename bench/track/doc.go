// Package track measures what following pipeline runs costs: one watch, and few bytes a run.
package track
