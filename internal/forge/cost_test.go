package forge

import (
	"fmt"
	"testing"
	"time"

	"sentry/internal/sentry"
)

func TestQuestionsAnHour(t *testing.T) {
	many := func(n int, interval time.Duration) []*Repository {
		list := make([]*Repository, n)
		for i := range list {
			list[i] = &Repository{Name: fmt.Sprint("r", i), Interval: interval}
		}
		return list
	}
	for _, c := range []struct {
		name  string
		of    []*Repository
		batch int
		want  int
	}{
		{"none", nil, 100, 0},
		{"one by one", many(30, time.Minute), 1, 1800},
		{"a question that is not full", many(30, time.Minute), 100, 60},
		{"two questions", many(101, time.Minute), 100, 120},
		{"of two rhythms", append(many(10, time.Minute), many(10, time.Hour)...), 100, 61},
		{"faster than is allowed", many(1, time.Millisecond), 1, 3600},
		{"once in two hours", many(1, 2*time.Hour), 1, 1},
	} {
		if got := questionsAnHour(c.of, c.batch); got != c.want {
			t.Errorf("%s: %d questions an hour, want %d", c.name, got, c.want)
		}
	}
}

// What is asked over Git has no quota, and is counted all the same.
func TestCostOverGit(t *testing.T) {
	remote, err := sentry.ParseRemote("https://github.com/o/r", sentry.RemoteRules{})
	if err != nil {
		t.Fatal(err)
	}
	main, err := sentry.ParsePattern("main")
	if err != nil {
		t.Fatal(err)
	}
	costs := Cost([]*Repository{{Name: "r", Remote: remote, Kind: GitHub, Patterns: []sentry.Pattern{main}, Interval: time.Minute}})
	if len(costs) != 1 || costs[0].Way != "ls-refs" || costs[0].RequestsPerHour != 60 || costs[0].Limit != 0 || costs[0].Watches != 1 {
		t.Errorf("one repository without a token: %+v", costs)
	}
}
