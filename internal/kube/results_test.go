package kube

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"sentry/internal/sentry"
)

func packed(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write([]byte(s))
	z.Close()
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

const junitReport = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="99">
  <testsuite name="outer" tests="5" failures="1" errors="1" skipped="1">
    <properties><property name="failure" value="1"/></properties>
    <testcase name="a"/>
    <testcase name="b"><failure message="no">&lt;trace&gt;</failure><system-out>x</system-out></testcase>
    <testsuite name="inner"><testcase name="c"><error/></testcase></testsuite>
    <testcase name="d"><skipped/></testcase>
    <testcase name="e"><system-err><failure/></system-err></testcase>
  </testsuite>
</testsuites>`

func TestReadResults(t *testing.T) {
	konflux := func(result string, passed, failed, warnings int) string {
		return fmt.Sprintf(`{"result":%q,"timestamp":"1700000000","namespace":"n","note":"see","successes":%d,"failures":%d,"warnings":%d,"more":[1]}`, result, passed, failed, warnings)
	}
	tests := map[string]struct {
		results map[string]string
		want    *sentry.TestSummary
		problem string
	}{
		"nothing of tests":               {map[string]string{"digest": "sha256:1", "xml": "<?xml version='1.0'?><pom/>", "url": "<testing>"}, nil, ""},
		"konflux":                        {map[string]string{"TEST_OUTPUT": konflux("SUCCESS", 3, 0, 1)}, &sentry.TestSummary{Result: "SUCCESS", Passed: 3, Warnings: 1, Note: "see"}, ""},
		"konflux, older":                 {map[string]string{"HACBS_TEST_OUTPUT": konflux("ERROR", 0, 2, 0)}, &sentry.TestSummary{Result: "ERROR", Failed: 2, Note: "see"}, ""},
		"konflux before junit":           {map[string]string{"TEST_OUTPUT": konflux("SUCCESS", 3, 0, 0), "junit": junitReport}, &sentry.TestSummary{Result: "SUCCESS", Passed: 3, Note: "see"}, ""},
		"konflux, other word":            {map[string]string{"TEST_OUTPUT": konflux("GREAT", 3, 0, 1)}, nil, `its result is "GREAT"`},
		"konflux, negative":              {map[string]string{"TEST_OUTPUT": konflux("SUCCESS", -1, 0, 1)}, nil, "-1 is not a number of tests"},
		"konflux, no JSON":               {map[string]string{"TEST_OUTPUT": "fine"}, nil, "not the JSON that Konflux defines"},
		"konflux, half":                  {map[string]string{"TEST_OUTPUT": `{"result":"SUCCESS"}`}, nil, "needs result, successes"},
		"junit":                          {map[string]string{"report": junitReport}, &sentry.TestSummary{Result: "FAILURE", Passed: 2, Failed: 2, Skipped: 1}, ""},
		"junit, packed":                  {map[string]string{"JUNIT_XML": packed(junitReport)}, &sentry.TestSummary{Result: "FAILURE", Passed: 2, Failed: 2, Skipped: 1}, ""},
		"junit, packed, by another name": {map[string]string{"XML": packed(junitReport)}, nil, ""},
		"junit, cut off":                 {map[string]string{"junit": junitReport[:250]}, &sentry.TestSummary{Result: "SUCCESS", Passed: 99}, ""},
		"junit, numbers only":            {map[string]string{"junit": `<testsuites><testsuite tests="3" failures="1"/><testsuite tests="4" errors="1" skipped="2"/></testsuites>`}, &sentry.TestSummary{Result: "FAILURE", Passed: 3, Failed: 2, Skipped: 2}, ""},
		"junit, none":                    {map[string]string{"junit": `<testsuites/>`}, &sentry.TestSummary{Result: "SKIPPED"}, ""},
		"junit, something else":          {map[string]string{"junit": `<html/>`}, nil, "begins with testsuites"},
		"junit, deep":                    {map[string]string{"junit": strings.Repeat("<testsuite>", 100)}, nil, "inside each other"},
		"junit, broken base64":           {map[string]string{"junit": "H4sIxx!"}, nil, "packed by gzip and base64"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var wire []wireResult
			for name, value := range test.results {
				data, _ := json.Marshal(value)
				wire = append(wire, wireResult{Name: name, Value: data})
			}
			kept, got, problems := readResults(wire)
			if len(kept) != len(test.results) {
				t.Errorf("%d results are kept", len(kept))
			}
			if test.want != nil && got != nil && strings.HasPrefix(got.Note, "the report is not complete") {
				got.Note = ""
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s %v", diff, problems)
			}
			if all := strings.Join(problems, "\n"); !strings.Contains(all, test.problem) || test.problem == "" && all != "" {
				t.Errorf("problems: %q", all)
			}
		})
	}
}

// TestJUnitEntities shows that what a report declares is not expanded: reading it costs what it is long.
func TestJUnitEntities(t *testing.T) {
	var b strings.Builder
	b.WriteString(`<!DOCTYPE testsuite [<!ENTITY a0 "aaaaaaaaaa">`)
	for i := range 30 {
		fmt.Fprintf(&b, `<!ENTITY a%d "&a%d;&a%d;">`, i+1, i, i)
	}
	b.WriteString(`]><testsuite><testcase name="x"><failure>&a30;</failure></testcase></testsuite>`)
	if s, err := readJUnit(strings.NewReader(b.String())); err == nil {
		t.Errorf("an entity that nobody knows is taken for text: %+v", s)
	}
}

func TestBoundsOfResults(t *testing.T) {
	var wire []wireResult
	for i := range 500 {
		data, _ := json.Marshal(strings.Repeat("é", 3000+i))
		wire = append(wire, wireResult{Name: strings.Repeat("n\x1b", 300), Value: data})
	}
	kept, _, _ := readResults(wire)
	if len(kept) != sentry.MaxResults {
		t.Errorf("%d are kept", len(kept))
	}
	for _, r := range kept {
		if len(r.Value) > sentry.MaxResultValue || !utf8.ValidString(r.Value) || len(r.Name) > 256 || strings.Contains(r.Name, "\x1b") {
			t.Fatalf("%d bytes of %q", len(r.Value), r.Name)
		}
	}
}

func FuzzJUnit(f *testing.F) {
	f.Add(junitReport)
	f.Add(junitReport[:200])
	f.Add(`<testsuite tests="3"><testcase/></testsuite></x>`)
	f.Fuzz(func(t *testing.T, report string) {
		s, err := readJUnit(strings.NewReader(report))
		if err == nil && (s.Passed < 0 || s.Failed < 0 || s.Skipped < 0 || resultRank[s.Result] == 0) {
			t.Errorf("%+v", s)
		}
	})
}
