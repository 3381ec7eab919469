package forgetest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// What a Git server answers with (git's Documentation/gitprotocol-v2).
const (
	advertisementType = "application/x-git-upload-pack-advertisement"
	resultType        = "application/x-git-upload-pack-result"
)

// gitRequest tells which repository a request over the Git protocol is about: "owner/name" of /owner/name.git/info/refs.
// ok is false for all others.
func gitRequest(r *http.Request) (repository string, ok bool) {
	path, ok := strings.CutSuffix(r.URL.Path, "/info/refs")
	if !ok || r.URL.Query().Get("service") != "git-upload-pack" {
		path, ok = strings.CutSuffix(r.URL.Path, "/git-upload-pack")
	}
	return strings.TrimSuffix(strings.TrimPrefix(path, "/"), ".git"), ok
}

// serveGit answers like git upload-pack of protocol v2: what it can do, and what refs there are. It has nothing to fetch.
func serveGit(w http.ResponseWriter, r *http.Request, refs []ref) {
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	if r.Method == http.MethodGet {
		w.Header().Set("Content-Type", advertisementType)
		var out bytes.Buffer
		packet(&out, "# service=git-upload-pack\n")
		out.WriteString("0000")
		for _, line := range []string{"version 2\n", "agent=git/2.47.0\n", "ls-refs=unborn\n", "fetch=shallow wait-for-done filter\n", "server-option\n", "object-format=" + formatOf(refs) + "\n"} {
			packet(&out, line)
		}
		out.WriteString("0000")
		_, _ = w.Write(out.Bytes())
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return // the client has gone
	}
	lines, err := packets(body)
	if err != nil || len(lines) == 0 || lines[0] != "command=ls-refs" {
		http.Error(w, "only ls-refs is known here", http.StatusBadRequest)
		return
	}
	var prefixes []string
	for _, line := range lines {
		if prefix, ok := strings.CutPrefix(line, "ref-prefix "); ok {
			prefixes = append(prefixes, prefix)
		}
	}
	var out bytes.Buffer
	for _, one := range refs {
		if len(prefixes) == 0 || slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(one.name, prefix) }) {
			packet(&out, one.commit+" "+one.name+"\n")
		}
	}
	out.WriteString("0000")
	w.Header().Set("Content-Type", resultType)
	_, _ = w.Write(out.Bytes())
}

// formatOf tells how the commits of refs are named; of none, as most are.
func formatOf(refs []ref) string {
	if len(refs) > 0 && len(refs[0].commit) == 64 {
		return "sha256"
	}
	return "sha1"
}

// packet writes a line with its length before it.
func packet(out *bytes.Buffer, line string) { fmt.Fprintf(out, "%04x%s", len(line)+4, line) }

// packets takes a request apart: its lines, without flushes and delimiters between them.
func packets(body []byte) (lines []string, err error) {
	for len(body) > 0 {
		if len(body) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n, err := strconv.ParseUint(string(body[:4]), 16, 16)
		switch {
		case err != nil:
			return nil, err
		case n < 4:
			body = body[4:]
		case int(n) > len(body):
			return nil, io.ErrUnexpectedEOF
		default:
			lines = append(lines, strings.TrimSuffix(string(body[4:n]), "\n"))
			body = body[n:]
		}
	}
	return lines, nil
}
