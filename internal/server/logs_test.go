package server

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"sentry/internal/sentry"
)

func TestLogs(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a", "pay@main:a"), "shop", "pay")
	d := f.save(r.Deployments[0], sentry.Succeeded, "clone", "cloned")
	f.save(d, sentry.Failed, "make\ntest\x1b[2J", "one\ntwo\nthree\n")
	f.save(r.Deployments[1], sentry.Running, "deploy", "working")
	path := Prefix + "/rollouts/" + r.ID + "/logs"
	shop := "==> shop@main: 1 clone\ncloned\n==> shop@main: 2 make test\\x1B[2J\none\ntwo\nthree\n==> failed: it went wrong\n"
	for query, want := range map[string]string{
		"":                        shop + "==> pay@main: 1 deploy\nworking",
		"?repository=shop":        shop,
		"?branch=main&step=1":     "clonedworking",
		"?repository=pay&step=2":  "",
		"?repository=shop&step=2": "one\ntwo\nthree\n",
		"?repository=shop&step=2&attempt=1&tail=2": "two\nthree\n",
		"?repository=shop&step=2&attempt=2":        "",
	} {
		w := f.send("GET", path+query, "", nil)
		if w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %q, want %q", query, w.Code, w.Body, want)
		}
		if got := w.Header().Get("Content-Type"); got != "text/plain; charset=utf-8" {
			t.Errorf("Content-Type: %q", got)
		}
	}
	f.want("GET", path+"?repository=shopp", "", 404, `did you mean \"shop\"?`)
	f.want("GET", path+"?repository=shop&branch=dev", "", 404)
}

func TestLogsThatAreGone(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a"), "shop")
	d := f.save(r.Deployments[0], sentry.Succeeded, "clone", "cloned")
	d.Steps[0].Log = filepath.Join("pruned", "1.log")
	f.saveDeployment(d)
	f.want("GET", Prefix+"/rollouts/"+r.ID+"/logs", "", 200, "[its log is not kept any more]")
}

func TestLogsStayInTheirFolder(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a"), "shop")
	d := f.save(r.Deployments[0], sentry.Succeeded, "clone", "cloned")
	d.Steps[0].Log = "../secret"
	f.write("../secret", "the secret")
	f.saveDeployment(d)
	defer func() {
		// The answer had begun, so the connection breaks: the caller must not take it for a whole one.
		if cause := recover(); cause != http.ErrAbortHandler { //nolint:errorlint // as net/http does
			t.Errorf("the handler ended with %v", cause)
		}
		if !strings.Contains(f.said.String(), "outside of the logs folder") {
			t.Errorf("the log does not say why: %s", f.said)
		}
	}()
	w := httptest.NewRecorder()
	defer func() {
		if strings.Contains(w.Body.String(), "secret") {
			t.Errorf("told %s", w.Body)
		}
	}()
	f.handler.ServeHTTP(w, httptest.NewRequest("GET", Prefix+"/rollouts/"+r.ID+"/logs", nil))
}

func TestFollowLogs(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a", "pay@main:a"), "shop", "pay")
	shop := f.save(r.Deployments[0], sentry.Running, "build", "one\n")
	server := f.listen()
	lines := follow(t, server, r.ID, "")
	lines.want("shop@main | ==> 1 build")
	lines.want("shop@main | one")
	pay := f.save(r.Deployments[1], sentry.Running, "deploy", "half a li")
	lines.want("pay@main | ==> 1 deploy")
	f.write(shop.Steps[0].Log, "one\ntwo\n")
	lines.want("shop@main | two")
	f.write(pay.Steps[0].Log, "half a line\nno end")
	lines.want("pay@main | half a line")

	shop.Steps[0].Status, shop.Steps[0].FinishedAt, shop.Steps[0].Reason = sentry.Failed, now, "exit code 2"
	f.saveDeployment(shop)
	lines.want("shop@main | ==> failed: exit code 2")
	pay.Steps[0].Status, pay.Steps[0].FinishedAt = sentry.Succeeded, now
	f.saveDeployment(pay)
	shop.Status, shop.FinishedAt = sentry.Failed, now
	f.saveDeployment(shop)
	pay.Status, pay.FinishedAt = sentry.Succeeded, now
	f.saveDeployment(pay)
	if err := f.store.Finish(t.Context(), r.ID, sentry.Failed, "shop failed"); err != nil {
		t.Fatal(err)
	}
	lines.want("pay@main | no end")
	lines.end()
}

func TestFollowOfOneDeploymentHasNoPrefix(t *testing.T) {
	f := newFixture(t)
	id := f.move("web", "shop@main:a", "pay@main:a")
	server := f.listen()
	lines := follow(t, server, id, "&repository=shop") // it only waits yet
	r := f.claim(id, "shop", "pay")
	shop := f.save(r.Deployments[0], sentry.Running, "build", "one\n")
	lines.want("==> shop@main: 1 build")
	lines.want("one")
	f.end(sentry.Rollout{ID: r.ID, Deployments: []sentry.Deployment{shop, r.Deployments[1]}}, sentry.Failed)
	lines.end()
}

func TestFollowEndsWithItsListener(t *testing.T) {
	f := newFixture(t)
	r := f.claim(f.move("web", "shop@main:a"), "shop")
	f.save(r.Deployments[0], sentry.Running, "build", "one\n")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", Prefix+"/rollouts/"+r.ID+"/logs?follow=true", nil))
	}()
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on for nobody")
	}
}

// listen serves the fixture on loopback.
func (f *fixture) listen() *httptest.Server {
	s := httptest.NewServer(f.handler)
	f.Cleanup(s.Close)
	return s
}

// reader reads a stream line by line.
type reader struct {
	t     *testing.T
	lines chan string
}

func follow(t *testing.T, server *httptest.Server, id, query string) *reader {
	t.Helper()
	return open(t, server, "/rollouts/"+id+"/logs?follow=true"+query)
}

func open(t *testing.T, server *httptest.Server, path string) *reader {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	request, err := http.NewRequestWithContext(ctx, "GET", server.URL+Prefix+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{t, make(chan string, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(r.lines)
		in := bufio.NewScanner(response.Body)
		for in.Scan() {
			r.lines <- in.Text()
		}
	}()
	t.Cleanup(func() { cancel(); response.Body.Close(); <-done })
	return r
}

func (r *reader) next() (string, bool) {
	r.t.Helper()
	select {
	case line, ok := <-r.lines:
		return line, ok
	case <-time.After(10 * time.Second):
		r.t.Fatal("nothing comes")
		return "", false
	}
}

func (r *reader) want(want string) {
	r.t.Helper()
	if got, ok := r.next(); !ok || got != want {
		r.t.Fatalf("got %q (%v), want %q", got, ok, want)
	}
}

func (r *reader) end() {
	r.t.Helper()
	if got, ok := r.next(); ok {
		r.t.Fatalf("got %q, want the end", got)
	}
}

func TestTail(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	for _, c := range []struct {
		in    string
		lines int
		want  string
	}{
		{"", 3, ""},
		{"a", 3, "a"},
		{"a\nb\nc\nd\n", 2, "c\nd\n"},
		{"a\nb\nc", 2, "b\nc"},
		{"a\n\n\n", 2, "\n\n"},
		{"a\nb\n", 10, "a\nb\n"},
	} {
		for name, in := range map[string]io.Reader{"whole": strings.NewReader(c.in), "byte by byte": iotest.OneByteReader(strings.NewReader(c.in))} {
			var out strings.Builder
			if err := tail(&out, in, c.lines); err != nil || out.String() != c.want {
				t.Errorf("the last %d lines of %q, %s: %q, %v; want %q", c.lines, c.in, name, out.String(), err, c.want)
			}
		}
	}
	var out strings.Builder
	if err := tail(&out, strings.NewReader("a\n"+long+"\nb\n"), 2); err != nil || out.Len() > 70<<10 || !strings.HasSuffix(out.String(), "x\nb\n") {
		t.Errorf("of a long line %d bytes, %v", out.Len(), err)
	}
	if err := tail(&out, iotest.ErrReader(fmt.Errorf("broken")), 2); err == nil {
		t.Error("an error is lost")
	}
}

func TestLinesStayWhole(t *testing.T) {
	var out strings.Builder
	all := &lines{w: &out}
	a, b := all.from("a | "), all.from("b | ")
	for _, w := range []struct {
		to   *from
		text string
	}{{a, "on"}, {b, "one\ntw"}, {a, "e\n"}, {b, "o\n\nthree"}, {a, ""}, {a, strings.Repeat("y", maxOpenLine+1)}, {a, "rest"}} {
		if _, err := io.WriteString(w.to, w.text); err != nil {
			t.Fatal(err)
		}
	}
	a.end()
	b.end()
	want := "b | one\na | one\nb | two\nb | \na | " + strings.Repeat("y", maxOpenLine+1) + "\na | rest\nb | three\n"
	if out.String() != want {
		t.Errorf("got %.200q, want %.200q", out.String(), want)
	}
}

func TestEvents(t *testing.T) {
	f := newFixture(t)
	id := f.move("web", "shop@main:a")
	server := f.listen()
	events := open(t, server, "/events")
	next := func() (string, string) {
		t.Helper()
		name := ""
		for {
			line, ok := events.next()
			if !ok {
				t.Fatal("the events ended")
			}
			kind, value, _ := strings.Cut(line, ": ")
			switch kind {
			case "event":
				name = value
			case "data":
				return name, value
			}
		}
	}
	want := func(status sentry.Status, steps int) {
		t.Helper()
		name, data := next()
		if name != "rollout" {
			t.Fatalf("event %s: %s", name, data)
		}
		r := decodeAs[sentry.Rollout](t, data)
		n := 0
		for _, d := range r.Deployments {
			n += len(d.Steps)
		}
		if r.ID != id || r.Status != status || n != steps {
			t.Fatalf("%s is %s with %d steps, want %s with %d", r.ID, r.Status, n, status, steps)
		}
	}
	want(sentry.Pending, 0)
	if line, _ := events.next(); line != "" {
		t.Fatalf("an event ends with %q", line)
	}
	if line, _ := events.next(); line != ": listening" {
		t.Fatalf("got %q", line)
	}
	r := f.claim(id, "shop")
	want(sentry.Running, 0)
	d := f.save(r.Deployments[0], sentry.Running, "build", "")
	want(sentry.Running, 1)
	if err := f.store.Pause(t.Context(), "web", "ada", ""); err != nil {
		t.Fatal(err)
	}
	if name, data := next(); name != "change" || data != "{}" {
		t.Fatalf("a pause is told as %s: %s", name, data)
	}
	d.Status, d.FinishedAt = sentry.Succeeded, now
	d.Steps[0].Status, d.Steps[0].FinishedAt = sentry.Succeeded, now
	f.saveDeployment(d)
	want(sentry.Running, 1)
	if err := f.store.Finish(t.Context(), id, sentry.Succeeded, ""); err != nil {
		t.Fatal(err)
	}
	want(sentry.Succeeded, 1)
}
