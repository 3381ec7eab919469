package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"sentry/internal/logger"
	"sentry/internal/sentry"
)

// Bounds of what is read of results, before nothing of it is kept but what the nouns allow.
const (
	maxSummaryValue = 1 << 20 // bytes of a result that is read as a summary of tests
	maxSummaries    = 100     // summaries that are added up
	maxCount        = 1 << 30 // of tests: more is no count
)

// testOutput are the names that Konflux gives to the result that sums up a test, the newer one first.
var testOutput = []string{"TEST_OUTPUT", "HACBS_TEST_OUTPUT"}

// wireResult is a result as Tekton writes it: the value is a string, a list or an object.
type wireResult struct {
	Name  string          `json:"name"`
	Value json.RawMessage `json:"value"`
}

// text gives the value: a string as it is, a list or an object as JSON.
func (r wireResult) text() string {
	var s string
	if json.Unmarshal(r.Value, &s) == nil {
		return s
	}
	var compact bytes.Buffer
	if json.Compact(&compact, r.Value) != nil {
		return ""
	}
	return compact.String()
}

// readResults gives the results as they are kept, clipped, and what they tell of tests. Problems are results that
// look like a summary of tests and cannot be read as one.
func readResults(wire []wireResult) (kept []sentry.Result, tests *sentry.TestSummary, problems []string) {
	var output, junit []sentry.TestSummary
	for i, r := range wire {
		if i == sentry.MaxResults {
			break
		}
		value := r.text()
		kept = append(kept, sentry.Result{Name: clip(logger.SanitizeLine(r.Name), 256), Value: clip(value, sentry.MaxResultValue)})
		summary, kind, err := summaryOf(r.Name, value)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("result %s: %v", logger.SanitizeLine(clip(r.Name, 256)), err))
		case kind == "konflux":
			output = append(output, summary)
		case kind == "junit":
			junit = append(junit, summary)
		}
	}
	// Whoever gives both speaks of the same tests twice.
	if len(output) > 0 {
		return kept, addSummaries(output), problems
	}
	return kept, addSummaries(junit), problems
}

// summaryOf reads a result as a summary of tests. The kind is "" where it is none.
func summaryOf(name, value string) (summary sentry.TestSummary, kind string, err error) {
	for _, known := range testOutput {
		if name == known {
			summary, err = readTestOutput(value)
			return summary, "konflux", err
		}
	}
	trimmed := strings.TrimSpace(value)
	named := strings.Contains(strings.ToLower(name), "junit")
	switch {
	case strings.HasPrefix(trimmed, "<testsuite"), named && strings.HasPrefix(trimmed, "<"):
		summary, err = readJUnit(strings.NewReader(trimmed))
	case strings.HasPrefix(trimmed, "<?xml"):
		// XML under another name may be anything.
		if summary, err = readJUnit(strings.NewReader(trimmed)); err != nil {
			return summary, "", nil
		}
	case named && strings.HasPrefix(trimmed, "H4sI"): // base64 of what gzip begins with
		summary, err = readPackedJUnit(trimmed)
	default:
		return summary, "", nil
	}
	return summary, "junit", err
}

// readTestOutput reads the TEST_OUTPUT of Konflux: ADR 30 of its architecture, and the schema that its integration
// service checks with, https://konflux-ci.dev/docs/testing/integration/standardized-outputs/.
func readTestOutput(value string) (sentry.TestSummary, error) {
	var o struct {
		Result    *string `json:"result"`
		Successes *int    `json:"successes"`
		Failures  *int    `json:"failures"`
		Warnings  *int    `json:"warnings"`
		Note      string  `json:"note"`
	}
	if len(value) > maxSummaryValue {
		return sentry.TestSummary{}, fmt.Errorf("it has %d bytes, and more than %d are not read", len(value), maxSummaryValue)
	}
	if err := json.Unmarshal([]byte(value), &o); err != nil {
		return sentry.TestSummary{}, fmt.Errorf("it is not the JSON that Konflux defines: %w", err)
	}
	if o.Result == nil || o.Successes == nil || o.Failures == nil || o.Warnings == nil {
		return sentry.TestSummary{}, fmt.Errorf("it needs result, successes, failures and warnings, as Konflux defines it")
	}
	if _, known := resultRank[*o.Result]; !known {
		return sentry.TestSummary{}, fmt.Errorf("its result is %q: Konflux defines SUCCESS, FAILURE, WARNING, SKIPPED and ERROR", clip(*o.Result, 40))
	}
	for _, n := range []int{*o.Successes, *o.Failures, *o.Warnings} {
		if n < 0 || n > maxCount {
			return sentry.TestSummary{}, fmt.Errorf("%d is not a number of tests", n)
		}
	}
	return sentry.TestSummary{Result: *o.Result, Passed: *o.Successes, Failed: *o.Failures, Warnings: *o.Warnings, Note: printable(o.Note)}, nil
}

// resultRank orders the results of Konflux: the first of several decides, as its ADR 30 says of several images.
var resultRank = map[string]int{"SUCCESS": 1, "SKIPPED": 2, "WARNING": 3, "FAILURE": 4, "ERROR": 5}

// addSummaries makes one of several; nil of none.
func addSummaries(all []sentry.TestSummary) *sentry.TestSummary {
	if len(all) == 0 {
		return nil
	}
	var sum sentry.TestSummary
	var notes []string
	for _, s := range all[:min(len(all), maxSummaries)] {
		if resultRank[s.Result] > resultRank[sum.Result] {
			sum.Result = s.Result
		}
		sum.Passed += s.Passed
		sum.Failed += s.Failed
		sum.Skipped += s.Skipped
		sum.Warnings += s.Warnings
		if s.Note != "" {
			notes = append(notes, s.Note)
		}
	}
	sum.Note = clip(strings.Join(notes, "; "), sentry.MaxTold)
	return &sum
}

// printable makes one harmless line of what a stranger wrote, of at most sentry.MaxTold bytes.
func printable(s string) string {
	// A rune may become ten bytes: clip before, so that a long text costs nothing, and after.
	return clip(strings.TrimSpace(logger.SanitizeLine(clip(s, sentry.MaxTold))), sentry.MaxTold)
}

// clip cuts s to at most size bytes, never inside a rune, and shows that it did.
func clip(s string, size int) string {
	if len(s) <= size {
		return s
	}
	const mark = "…"
	cut := size - len(mark)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strings.Clone(s[:cut] + mark)
}
