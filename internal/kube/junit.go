package kube

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"sentry/internal/sentry"
)

// Bounds of a JUnit report.
const (
	maxJUnit      = 8 << 20 // bytes, unpacked
	maxJUnitDepth = 64
)

// readPackedJUnit reads a report that was packed to fit into a result: base64 of gzip.
func readPackedJUnit(value string) (sentry.TestSummary, error) {
	unpacked, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(value)))
	if err != nil {
		return sentry.TestSummary{}, fmt.Errorf("it is not JUnit packed by gzip and base64: %w", err)
	}
	return readJUnit(unpacked)
}

// readJUnit counts the test cases of a JUnit report, <testsuites> or <testsuite>, however deep its suites are. Of a
// report that names only suites, or that was cut off, the numbers that the suites tell of themselves are taken.
// Entities and document types are not looked up or expanded.
func readJUnit(r io.Reader) (sentry.TestSummary, error) {
	var c junitCounter
	err := c.read(&io.LimitedReader{R: r, N: maxJUnit})
	if errors.Is(err, errNotJUnit) {
		return sentry.TestSummary{}, err
	}
	s, known := c.summary(err == nil)
	if !known {
		return sentry.TestSummary{}, fmt.Errorf("it is not a JUnit report that can be read: %w", err)
	}
	if err != nil {
		s.Note = "the report is not complete: " + printable(err.Error())
	}
	return s, nil
}

var errNotJUnit = errors.New("it is not a JUnit report: that begins with testsuites or testsuite")

// junitCounter goes through a report once.
type junitCounter struct {
	depth            int
	cases            junitCounts // what the test cases add up to
	told             junitCounts // what the outermost suites that have numbers tell
	suite            int         // depth of the suite whose numbers were taken; 0 outside of one
	failing, skipped bool        // of the test case that is being read
	inCase           int         // its depth; 0 outside of one
}

type junitCounts struct{ tests, failed, skipped int }

// read goes through the report, to its end or to its first mistake.
func (c *junitCounter) read(r io.Reader) error {
	d := xml.NewDecoder(r)
	d.Strict = true
	d.CharsetReader = func(string, io.Reader) (io.Reader, error) { return nil, errors.New("it is not in UTF-8") }
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			if c.depth > 0 {
				return io.ErrUnexpectedEOF
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch token := token.(type) {
		case xml.StartElement:
			c.depth++
			if c.depth > maxJUnitDepth {
				return fmt.Errorf("more than %d elements inside each other", maxJUnitDepth)
			}
			if c.depth == 1 && token.Name.Local != "testsuites" && token.Name.Local != "testsuite" {
				return errNotJUnit
			}
			c.begin(token)
		case xml.EndElement:
			if c.depth == 0 {
				return errors.New("an element ends that never began")
			}
			c.end()
		}
	}
}

func (c *junitCounter) begin(e xml.StartElement) {
	switch {
	case e.Name.Local == "testcase" && c.inCase == 0:
		c.inCase, c.failing, c.skipped = c.depth, false, false
	case c.inCase > 0 && c.depth == c.inCase+1:
		c.failing = c.failing || e.Name.Local == "failure" || e.Name.Local == "error"
		c.skipped = c.skipped || e.Name.Local == "skipped"
	case c.suite == 0 && c.inCase == 0:
		if counts, told := countsOf(e.Attr); told {
			c.suite = c.depth
			c.told.tests += counts.tests
			c.told.failed += counts.failed
			c.told.skipped += counts.skipped
		}
	}
}

func (c *junitCounter) end() {
	if c.inCase == c.depth && c.inCase > 0 {
		c.inCase = 0
		c.cases.tests++
		switch {
		case c.failing:
			c.cases.failed++
		case c.skipped:
			c.cases.skipped++
		}
	}
	if c.suite == c.depth {
		c.suite = 0
	}
	c.depth--
}

// countsOf gives what a suite tells of itself.
func countsOf(attributes []xml.Attr) (n junitCounts, told bool) {
	for _, a := range attributes {
		value, err := strconv.Atoi(strings.TrimSpace(a.Value))
		if err != nil || value < 0 || value > maxCount {
			continue
		}
		switch a.Name.Local {
		case "tests":
			n.tests, told = value, true
		case "failures", "errors":
			n.failed += value
		case "skipped", "disabled":
			n.skipped += value
		}
	}
	return n, told
}

// summary prefers the test cases, unless some are missing.
func (c *junitCounter) summary(complete bool) (s sentry.TestSummary, known bool) {
	n := c.cases
	if c.told.tests > n.tests && (!complete || n.tests == 0) {
		n = c.told
	}
	s = sentry.TestSummary{Result: "SUCCESS", Passed: max(0, n.tests-n.failed-n.skipped), Failed: n.failed, Skipped: n.skipped}
	switch {
	case n.failed > 0:
		s.Result = "FAILURE"
	case n.tests == n.skipped:
		s.Result = "SKIPPED"
	}
	return s, complete || n.tests > 0
}
