// Package record measures what it takes to record ten thousand heads that moved, durably.
package record
