package forgetest

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// get asks an emulator over its own wire.
func get(t *testing.T, lab Lab, method, address, token, body string) (int, http.Header, string) {
	t.Helper()
	client := &http.Client{
		Transport:     &http.Transport{DialContext: lab.Dial(), DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	switch {
	case token == "":
	case strings.Contains(address, ".git/"):
		req.SetBasicAuth("any", token)
	case lab.Kind() == "gitlab":
		req.Header.Set("Private-Token", token)
	default:
		req.Header.Set("Authorization", "token "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

// What GitLab's documentation says, the emulator does.
func TestGitLab(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGitLab(t, GitLabOptions{})
		g.Repository("Group/sub/one", false)
		g.Repository("Group/secret", true)
		commit := g.Push("Group/sub/one", "main")
		g.Push("Group/secret", "main")
		all, reader, gitOnly := g.Token(), g.Token("read_api"), g.Token("read_repository")
		gone, old := g.Token(), g.TokenUntil(time.Now().Add(-time.Hour))
		g.Revoke(gone)
		project := g.API() + "/projects/group%2Fsub%2Fone"
		graphql := func(query string) string { return fmt.Sprintf(`{"query":%q}`, query) }
		api := g.URL() + "/api/graphql"
		paths := strings.Repeat(`"a",`, 51)
		for _, c := range []struct {
			method, address, token, body string
			status                       int
			want                         string
		}{
			{"GET", project, "", "", 200, `"path_with_namespace":"Group/sub/one"`},
			{"GET", g.API() + "/projects/group%2Fsecret", "", "", 404, `404 Project Not Found`},
			{"GET", g.API() + "/projects/group%2Fsecret", all, "", 200, `"access_level":30`},
			{"GET", project, gone, "", 401, `invalid_token`},
			{"GET", project, old, "", 401, `expired`},
			{"GET", project, "glpat-wrong", "", 401, `401 Unauthorized`},
			{"GET", project, gitOnly, "", 403, `insufficient_scope`},
			{"GET", g.API() + "/personal_access_tokens/self", gitOnly, "", 200, `"scopes":["read_repository"]`},
			{"GET", project + "/repository/branches/main", reader, "", 200, commit},
			{"GET", project + "/repository/branches/no%2Fsuch", reader, "", 404, `404 Branch Not Found`},
			{"POST", project + "/statuses/" + commit, reader, `{"state":"pending"}`, 403, `insufficient_scope`},
			{"POST", project + "/statuses/" + commit, all, `{"state":"failure"}`, 400, `state does not have a valid value`},
			{"POST", project + "/statuses/" + commit, all, `{"state":"pending","name":"x"}`, 201, `"status":"pending"`},
			{"POST", project + "/statuses/" + commit, all, `{"state":"pending","name":"x"}`, 400, `Cannot transition status via :enqueue from :pending`},
			{"POST", project + "/statuses/" + commit, all, `{"state":"success","name":"x"}`, 201, `"id":1`},
			{"POST", project + "/statuses/" + commit, all, `{"state":"pending","name":"x"}`, 201, `"id":2`},
			{"POST", api, all, graphql(`{currentUser{username}}`), 200, `"watcher"`},
			{"POST", api, "", graphql(`{currentUser{username}}`), 200, `null`},
			{"POST", api, gitOnly, graphql(`{currentUser{username}}`), 401, `Invalid token`},
			{"POST", api, all, graphql(`{project(fullPath:"group/sub/ONE"){repository{commit(ref:"refs/heads/main"){sha}}} queryComplexity{limit score}}`), 200, `"limit":250,"score":8`},
			{"POST", api, all, graphql(`{project(fullPath:"group/secret"){fullPath}}`), 200, `Group/secret`},
			{"POST", api, "", graphql(`{project(fullPath:"group/secret"){fullPath}}`), 200, `"project":null`},
			{"POST", api, all, graphql(`{project(fullPath:"group/sub/one"){repository{branchNames(searchPattern:"*",offset:0,limit:9)}} a:project(fullPath:"x"){repository{branchNames(searchPattern:"*",offset:0,limit:9)}}}`), 200, `exceeds max complexity of 250`},
			{"POST", api, all, graphql(`{projects(fullPaths:[` + paths + `]){nodes{fullPath}}}`), 200, `more than 50 full_paths`},
			{"POST", api, all, graphql(`{nothing{x}}`), 200, `"code":"undefinedField"`},
			{"POST", api, all, graphql(`{project(path:"x"){fullPath}}`), 200, `"code":"argumentNotAccepted"`},
			{"POST", api, all, graphql(`{` + strings.Repeat(" ", 10_000) + `currentUser{username}}`), 422, `Query too large`},
			{"POST", api, all, graphql(`{currentUser`), 200, `syntax error`},
			{"GET", g.URL() + "/group/sub/one.git/info/refs?service=git-upload-pack", "", "", 200, "version 2"},
			{"GET", g.URL() + "/group/sub/one.git/info/refs?service=git-upload-pack", gone, "", 401, "HTTP Basic: Access denied"},
			{"GET", g.URL() + "/group/secret.git/info/refs?service=git-upload-pack", "", "", 401, "HTTP Basic: Access denied"},
			{"GET", g.URL() + "/group/secret.git/info/refs?service=git-upload-pack", reader, "", 401, "HTTP Basic: Access denied"},
			{"GET", g.URL() + "/group/secret.git/info/refs?service=git-upload-pack", gitOnly, "", 200, "version 2"},
			{"GET", g.URL() + "/group/none.git/info/refs?service=git-upload-pack", gitOnly, "", 404, "could not be found"},
			{"POST", g.URL() + "/group/sub/one.git/git-upload-pack", "", "0014command=ls-refs\n00010019ref-prefix refs/heads0000", 200, commit + " refs/heads/main"},
		} {
			status, _, body := get(t, g, c.method, c.address, c.token, c.body)
			if status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%s %s with %q: %d %.300s", c.method, c.address, c.body, status, body)
			}
		}

		_, h, _ := get(t, g, "GET", project+"/repository/branches/main", all, "")
		if h.Get("ETag") == "" || h.Get("RateLimit-Remaining") == "" {
			t.Errorf("a branch comes with %v", h)
		}
		g.Rename("Group/sub/one", "Group/two")
		status, h, body := get(t, g, "GET", project+"/repository/branches/main", all, "")
		if status != 301 || h.Get("Location") != g.API()+"/projects/1/repository/branches/main" || !strings.Contains(body, "moved permanently") {
			t.Errorf("after a rename: %d %v %s", status, h, body)
		}
		if status, _, _ := get(t, g, "POST", project+"/statuses/"+commit, all, `{"state":"success"}`); status != 405 {
			t.Errorf("a status under the former name: %d", status)
		}
	})
}

// A limit is kept by the minute, for each token, and told in every answer.
func TestGitLabLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGitLab(t, GitLabOptions{PerMinute: 3})
		one, other := g.Token(), g.Token()
		ask := func(token string, want int) http.Header {
			t.Helper()
			status, h, body := get(t, g, "GET", g.API()+"/user", token, "")
			if status != want || status == 429 && strings.TrimSpace(body) != "Retry later" {
				t.Fatalf("%d %s %v", status, body, h)
			}
			return h
		}
		time.Sleep(20 * time.Second)
		for left := 2; left >= 0; left-- {
			if h := ask(one, 200); h.Get("RateLimit-Remaining") != fmt.Sprint(left) || h.Get("RateLimit-Reset") != fmt.Sprint(time.Now().Truncate(time.Minute).Add(time.Minute).Unix()) {
				t.Errorf("%d left: %v", left, h)
			}
		}
		if h := ask(one, 429); h.Get("Retry-After") != "41" {
			t.Errorf("too many: %v", h)
		}
		ask(other, 200)
		ask(one, 429)
		time.Sleep(41 * time.Second)
		ask(one, 200)
		if c := g.Requests(); c.Refused != 2 || c.Forbidden != 1 || c.API != 7 {
			t.Errorf("counted are %+v", c)
		}
	})
}
