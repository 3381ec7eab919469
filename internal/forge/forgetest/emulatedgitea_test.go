package forgetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The emulated Gitea answers as a real one does: the same statuses, and what Sentry reads of the bodies.
func TestEmulatedGiteaIsLikeGitea(t *testing.T) {
	real := NewGitea(t)
	labs := []Lab{real, NewEmulatedGitea(t, EmulatedGiteaOptions{Loopback: true})}
	type answer struct {
		status   int
		location string
		fields   string
	}
	var said [2][]answer
	var asked []string
	for i, lab := range labs {
		all, reader, other := lab.Token(), lab.Token("read:repository"), lab.Token("read:misc")
		// A queue writes when a repository was pushed to. What happens in the same second comes in any order.
		noted := func(repository, branch string) {
			if lab == real {
				await(t, repository+" has been pushed to", func() bool {
					_, _, body := get(t, lab, "GET", lab.API()+"/repos/"+repository+"/activities/feeds", all, "")
					return strings.Contains(body, `"ref_name":"refs/heads/`+branch+`"`)
				})
			}
			time.Sleep(1100 * time.Millisecond)
		}
		lab.Repository("team/open", false)
		lab.Repository("team/secret", true)
		commit := lab.Push("team/open", "main")
		noted("team/open", "main")
		lab.Push("team/open", "feature/x")
		noted("team/open", "feature/x")
		lab.Push("team/secret", "main")
		noted("team/secret", "main")
		gone := lab.Token()
		lab.Revoke(gone)
		lab.Repository("team/before", false)
		lab.Rename("team/before", "team/after")
		asked = nil
		api, web := lab.API(), lab.URL()
		for _, c := range [][4]string{
			{"GET", api + "/repos/search?sort=updated&order=desc&limit=2", all, ""},
			{"GET", api + "/repos/search?sort=updated&order=desc&limit=50", "", ""},
			{"GET", api + "/repos/search?sort=id&order=asc&limit=1&page=2", all, ""},
			{"GET", api + "/repos/search?sort=id&order=asc&limit=50&page=9", all, ""},
			{"GET", api + "/repos/search?q=team/secret&limit=50", all, ""},
			{"GET", api + "/repos/search?q=team/secret&limit=50", reader, ""},
			{"GET", api + "/repos/search?q=team/secret&limit=50", "", ""},
			{"GET", api + "/repos/search?sort=nonsense", all, ""},
			{"GET", api + "/repos/search", other, ""},
			{"GET", api + "/repos/search", gone, ""},
			{"GET", api + "/repos/team/open", all, ""},
			{"GET", api + "/repos/team/OPEN", reader, ""},
			{"GET", api + "/repos/team/secret", "", ""},
			{"GET", api + "/repos/team/none", all, ""},
			{"GET", api + "/repos/team/before", all, ""},
			{"GET", api + "/repos/team/before/branches/main", all, ""},
			{"GET", api + "/repos/team/open/branches/main", all, ""},
			{"GET", api + "/repos/team/open/branches/feature/x", all, ""},
			{"GET", api + "/repos/team/open/branches/none", all, ""},
			{"GET", api + "/repos/team/open/branches?limit=1", all, ""},
			{"GET", api + "/user", all, ""},
			{"GET", api + "/user", reader, ""},
			{"GET", api + "/user", "", ""},
			{"GET", api + "/repos/team/open/commits/" + commit + "/status", all, ""},
			{"POST", api + "/repos/team/open/statuses/" + commit, reader, `{"state":"pending","context":"a"}`},
			{"POST", api + "/repos/team/open/statuses/" + commit, all, `{"state":"pending","context":"a","description":"d","target_url":"https://x.example"}`},
			{"POST", api + "/repos/team/open/statuses/" + commit, all, `{"state":"success","context":"a","description":"d","target_url":"https://x.example"}`},
			{"GET", api + "/repos/team/open/commits/" + commit + "/status", all, ""},
			{"POST", api + "/repos/team/before/statuses/" + commit, all, `{"state":"success","context":"a"}`},
			{"GET", web + "/team/open.git/info/refs?service=git-upload-pack", "", ""},
			{"GET", web + "/team/open.git/info/refs?service=git-upload-pack", gone, ""},
			{"GET", web + "/team/secret.git/info/refs?service=git-upload-pack", "", ""},
			{"GET", web + "/team/secret.git/info/refs?service=git-upload-pack", reader, ""},
			{"GET", web + "/team/secret.git/info/refs?service=git-upload-pack", other, ""},
			{"GET", web + "/team/none.git/info/refs?service=git-upload-pack", "", ""},
			{"GET", web + "/team/none.git/info/refs?service=git-upload-pack", all, ""},
			{"GET", web + "/team/before.git/info/refs?service=git-upload-pack", all, ""},
		} {
			status, h, body := get(t, lab, c[0], c[1], c[2], c[3])
			asked = append(asked, strings.Join([]string{c[0], strings.Replace(c[1], web, "", 1), c[3]}, " "))
			said[i] = append(said[i], answer{status, strings.NewReplacer(web, "", commit, "COMMIT").Replace(h.Get("Location")), fieldsOf(body) + " total " + h.Get("X-Total-Count")})
		}
	}
	for n := range asked {
		if said[0][n] != said[1][n] {
			t.Errorf("%s\n real: %+v\nours: %+v", asked[n], said[0][n], said[1][n])
		}
	}
}

// await waits until something is so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for limit := time.Now().Add(time.Minute); !so(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}

// fieldsOf shows what Sentry reads of an answer, without what is never the same.
func fieldsOf(body string) string {
	var v any
	if json.Unmarshal([]byte(body), &v) != nil {
		return ""
	}
	var show func(v any) string
	show = func(v any) string {
		switch v := v.(type) {
		case []any:
			var parts []string
			for _, e := range v {
				parts = append(parts, show(e))
			}
			return "[" + strings.Join(parts, " ") + "]"
		case map[string]any:
			var parts []string
			for _, name := range []string{"ok", "data", "full_name", "private", "mirror", "has_code", "permissions", "push", "pull", "name", "status", "context", "description", "target_url", "statuses", "login"} {
				e, there := v[name]
				if there && (v["clone_url"] == nil || name != "name" && name != "description") && (v["login"] == nil || name == "login") {
					parts = append(parts, name+"="+show(e))
				}
			}
			return "{" + strings.Join(parts, " ") + "}"
		default:
			return fmt.Sprint(v)
		}
	}
	return show(v)
}
