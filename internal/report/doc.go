// Package report is what leaves Sentry: statuses on the commits of a rollout. It reads the outbox of the store, turns
// messages into deliveries, and delivers each until it has arrived or no try can help any more.
//
// What it promises: where anything is said of a rollout, then "pending" at most once, and after it exactly one verdict; at
// least once each, in this order for a commit, and never a pending last when the rollout is over. A pending that could
// not be sent before its verdict is due is not sent any more. A forge that is down delays nothing but what is for it.
package report
