package git

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sentry/internal/sentry"
)

// instant answers in the place of a network and a server.
type instant struct{ contact, refs string }

func (i instant) RoundTrip(r *http.Request) (*http.Response, error) {
	kind, text := "advertisement", i.contact
	if r.Method == http.MethodPost {
		kind, text = "result", i.refs
		_ = r.Body.Close()
	}
	return &http.Response{
		StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/x-git-upload-pack-" + kind}},
		Body: io.NopCloser(strings.NewReader(text)),
	}, nil
}

// BenchmarkHeads is what a question costs without the network: prefixes, request, answer, matching.
func BenchmarkHeads(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("branches=%d", n), func(b *testing.B) {
			var answer strings.Builder
			var list []sentry.Pattern
			for i := range n {
				name := fmt.Sprintf("topic/b%06d", i)
				p, err := sentry.ParsePattern(name)
				if err != nil {
					b.Fatal(err)
				}
				list = append(list, p)
				fmt.Fprintf(&answer, "%04x%040x refs/heads/%s\n", 4+40+1+len(heads+name)+1, i+1, name)
			}
			g, err := New(Options{StateDir: b.TempDir(), Transport: instant{"000eversion 2\n000cls-refs\n0000", answer.String() + "0000"}})
			if err != nil {
				b.Fatal(err)
			}
			r, err := sentry.ParseRemote("https://forge.example/team/r.git", sentry.RemoteRules{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if got, err := g.Heads(b.Context(), r, Auth{}, list); err != nil || len(got) != n {
					b.Fatal(len(got), err)
				}
			}
		})
	}
}
