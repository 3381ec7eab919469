// Package monitor decides when a repository is asked for its branches, asks, decides what moved, and has that recorded.
//
// It meets the rest of Sentry in the store only: what it records there is what is rolled out. All it keeps itself is
// what can be asked or read again, so killing it anywhere loses nothing: a head that was not recorded is found by the
// next question.
//
// The files follow the life of one question: schedule.go, alarm.go and hot.go say when, lane.go and dispatch.go whether
// it may be put now and about whom, ask.go puts it, judge.go decides what the answer means, record.go has it recorded, and
// ledger.go keeps what was decided. update.go is the only way in for a configuration, watches.go the way out for people.
package monitor
