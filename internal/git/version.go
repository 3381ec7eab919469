package git

import (
	"fmt"
	"regexp"
	"strconv"
)

// Oldest is the oldest git that Sentry works with: it knows --end-of-options where Sentry needs it, and fetches without
// writing FETCH_HEAD.
var Oldest = Version{2, 30, 0}

// Version is that of git.
type Version struct{ Major, Minor, Patch int }

var versionText = regexp.MustCompile(`^git version (\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?`)

// ParseVersion reads what `git version` prints. What builders add ("2.39.5 (Apple Git-154)", "2.43.0.windows.1") is
// passed over.
func ParseVersion(text string) (Version, error) {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return Version{}, fmt.Errorf("cannot read the version of git from %q", text)
	}
	var n [3]int
	for i, digits := range m[1:] {
		if digits != "" {
			n[i], _ = strconv.Atoi(digits) // at most four digits
		}
	}
	return Version{n[0], n[1], n[2]}, nil
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Before reports whether v is older than w.
func (v Version) Before(w Version) bool {
	switch {
	case v.Major != w.Major:
		return v.Major < w.Major
	case v.Minor != w.Minor:
		return v.Minor < w.Minor
	}
	return v.Patch < w.Patch
}

// fix is one security release of git.
type fix struct {
	what string
	// patch maps a minor version of git 2 to the first patch that has the fix. Older minors never got it; newer ones have
	// it from the start.
	patch map[int]int
	// newest is the greatest key.
	newest int
}

// fixes are the security releases since 2.30, oldest first, that matter to who fetches from servers and checks out what
// they send. Source: the release notes of git.
var fixes = []fix{
	{"CVE-2021-21300 (checkout through a link, on file systems that fold case)", map[int]int{30: 2}, 30},
	{"CVE-2022-39253 and CVE-2022-39260 (local clones of links, git shell)", map[int]int{30: 6, 31: 5, 32: 4, 33: 5, 34: 5, 35: 5, 36: 3, 37: 4, 38: 1}, 38},
	{"CVE-2022-23521 and CVE-2022-41903 (heap overflows in .gitattributes and formats)", map[int]int{30: 7, 31: 6, 32: 5, 33: 6, 34: 6, 35: 6, 36: 4, 37: 5, 38: 3, 39: 1}, 39},
	{"CVE-2023-22490 and CVE-2023-23946 (files read and written through crafted repositories)", map[int]int{30: 8, 31: 7, 32: 6, 33: 7, 34: 7, 35: 7, 36: 5, 37: 6, 38: 4, 39: 2}, 39},
	{"CVE-2023-25652 and CVE-2023-29007 (files and configuration written through crafted input)", map[int]int{30: 9, 31: 8, 32: 7, 33: 8, 34: 8, 35: 8, 36: 6, 37: 7, 38: 5, 39: 3, 40: 1}, 40},
	{"CVE-2024-32002 and CVE-2024-32004 (code run while cloning)", map[int]int{39: 4, 40: 2, 41: 1, 42: 2, 43: 4, 44: 1, 45: 1}, 45},
	{"CVE-2024-50349 and CVE-2024-52006 (credentials asked for and sent to the wrong host)", map[int]int{40: 4, 41: 3, 42: 4, 43: 6, 44: 3, 45: 3, 46: 3, 47: 2, 48: 1}, 48},
	{"CVE-2025-48384 and CVE-2025-48385 (code run and files written while cloning)", map[int]int{43: 7, 44: 4, 45: 4, 46: 4, 47: 3, 48: 2, 49: 1, 50: 1}, 50},
}

// Insecure lists the security fixes that a git of this version lacks. Distributions put fixes into versions that have
// none by their number, so that this is a reason to look, not a proof.
func (v Version) Insecure() []string {
	var missing []string
	for _, f := range fixes {
		patch, known := f.patch[v.Minor]
		lacks := v.Minor < f.newest && !known || known && v.Patch < patch
		if v.Major < 2 || v.Major == 2 && lacks {
			missing = append(missing, f.what)
		}
	}
	return missing
}
