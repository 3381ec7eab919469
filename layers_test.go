package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers are the floors of the house. A package may import those on floors below its own, never its neighbours: what
// two neighbours share belongs on a floor below both, and what joins them on one above. So each package can be read,
// tested and replaced without those above it, and there is one place to look for who knows whom.
var layers = map[string]int{
	"":                   8, // main.go
	"cli":                7,
	"daemon":             6,
	"server":             5,
	"monitor":            4,
	"deploy":             4,
	"report":             4,
	"git":                3,
	"forge":              2,
	"kube":               2,
	"git/gitwire":        2,
	"git/gitserve":       2,
	"command":            2,
	"store":              2,
	"config":             1,
	"logger":             1,
	"crash":              0, // tests only: it drives the program from outside
	"endtoend":           0, // the same
	"endtoend/pipelines": 0,
	"sentry":             0,
}

// testHelpers are packages that only tests import; nothing else may.
var testHelpers = []string{"forge/forgetest", "git/gittest", "kube/kubetest", "sentry/sentrytest", "store/storetest"}

// seesConfig are the only packages that know the configuration. The hands below take plain arguments, so that they
// can be used, and understood, without it.
var seesConfig = []string{"", "cli", "daemon", "server", "monitor", "deploy", "report"}

// forbidden are packages that must not come in, and why.
var forbidden = map[string]string{
	"gopkg.in/yaml.v3":                  "archived, and quadratic in the number of keys: go.yaml.in/yaml/v4",
	"github.com/go-git/go-git/v5":       "lists every reference to check one; a peer in bench/ only",
	"math/rand":                         "math/rand/v2",
	"io/ioutil":                         "deprecated",
	"github.com/stretchr/testify":       "the tests use the testing package and go-cmp",
	"sentry/internal/forge/forgetest":   "for tests only",
	"sentry/internal/git/gittest":       "for tests only",
	"sentry/internal/kube/kubetest":     "for tests only",
	"sentry/internal/sentry/sentrytest": "for tests only",
	"sentry/internal/store/storetest":   "for tests only",
}

func TestLayers(t *testing.T) {
	fset := token.NewFileSet()
	docs := map[string]int{}
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && name != "." || slices.Contains([]string{"testdata", "bench", "components", "tools", "build"}, d.Name()) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		dir := path.Dir(filepath.ToSlash(name))
		pkg := strings.TrimPrefix(strings.TrimPrefix(dir, "."), "internal/")
		file, err := parser.ParseFile(fset, name, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		if _, seen := docs[pkg]; !seen {
			docs[pkg] = 0
		}
		if file.Doc != nil && !isDirective(file.Doc) {
			docs[pkg]++
		}
		helper := slices.Contains(testHelpers, pkg)
		floor, known := layers[pkg]
		if !known && !helper {
			t.Errorf("%s: package %q has no place in the house: give it a floor in layers", name, pkg)
		}
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			if why, bad := forbidden[imported]; bad && !helper {
				t.Errorf("%s imports %s: %s", name, imported, why)
			}
			below, ours := strings.CutPrefix(imported, "sentry/internal/")
			if !ours {
				if pkg == "sentry" && strings.Contains(strings.Split(imported, "/")[0], ".") {
					t.Errorf("%s imports %s: the nouns depend on the standard library only", name, imported)
				}
				continue
			}
			if helper {
				continue
			}
			if to, known := layers[below]; known && to >= floor {
				t.Errorf("%s (floor %d) imports %s (floor %d): imports only go down, so that no package has to know who uses it", name, floor, imported, to)
			}
			if below == "config" && !slices.Contains(seesConfig, pkg) {
				t.Errorf("%s imports config: the hands take plain arguments", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg, n := range docs {
		if n != 1 {
			t.Errorf("package %q has %d package comments; it should have exactly one, that says what the package is for", pkg, n)
		}
	}
	if len(docs) < 10 {
		t.Fatalf("only %d packages seen: this test is looking at the wrong place", len(docs))
	}
}

// isDirective reports whether a comment is only a build constraint or another directive.
func isDirective(doc *ast.CommentGroup) bool { return strings.TrimSpace(doc.Text()) == "" }
