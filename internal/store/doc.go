// Package store keeps what Sentry must never forget: heads, changes, rollouts with their deployments and steps, the
// ledger of decisions and the outbox. It is one SQLite database in the state directory.
//
// The rules that everything here follows:
//
//   - Durable before act. A call that returned nil is on disk (WAL, synchronous=FULL) and survives kill -9 and a power
//     cut. A call that returned an error changed nothing, except where the error is ErrPoisoned: then nobody knows, and
//     the process has to end and ask the disk again.
//   - One writer. All writes pass one goroutine, which puts every closure that waits into one transaction, each in a
//     savepoint of its own: one fsync for many callers.
//   - One owner. An exclusive lock on the state directory, and an epoch in the database that grows with every start:
//     a write from an older epoch is refused, whatever became of the lock.
//   - Order is by sequence, never by clock. Timestamps (Unix milliseconds, UTC) are for people.
//   - Never empty in place of something lost. A small file beside the database remembers that there was one.
package store
