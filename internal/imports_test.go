package internal_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/berthregistry/berth/"

// allowed says which of our packages a package may import. Whoever adds a package adds a row, and
// thinks about which way its arrows point: towards the vocabulary, never from domain to HTTP,
// never from one HTTP package to another.
var allowed = map[string][]string{
	"internal/oci":           {},
	"internal/http1":         {},
	"internal/egress":        {},
	"internal/auth/oidc":     {"internal/egress"},
	"internal/blob":          {"internal/oci"},
	"internal/blob/fs":       {"internal/blob", "internal/oci"},
	"internal/blob/blobtest": {"internal/blob", "internal/oci"},
	"internal/blob/s3":       {"internal/blob", "internal/oci"},
	"internal/access":        {"internal/oci"},
	"internal/policy":        {"internal/access", "internal/oci"},
	"internal/meta":          {"internal/access", "internal/oci", "internal/policy"},
	"internal/upstream":      {"internal/egress", "internal/oci"},
	"internal/registry":      {"internal/blob", "internal/meta", "internal/oci", "internal/policy", "internal/upstream"},
	"internal/gc":            {"internal/blob", "internal/meta"},
	"internal/job":           {"internal/meta"},
	"internal/scrub":         {"internal/blob", "internal/meta", "internal/oci", "internal/upstream"},
	"internal/audit":         {"internal/job", "internal/meta"},
	"internal/pulls":         {"internal/meta", "internal/oci"},
	"internal/retention":     {"internal/access", "internal/meta", "internal/oci", "internal/policy"},
	"internal/certificate":   {"internal/job", "internal/meta"},
	"internal/journal":       {"internal/blob", "internal/job", "internal/meta", "internal/oci"},
	"internal/fsck":          {"internal/blob", "internal/meta", "internal/oci"},
	"internal/move":          {"internal/blob", "internal/meta", "internal/oci"},
	"internal/backup":        {"internal/blob", "internal/meta", "internal/oci"},
	"internal/web":           {"internal/oci"},
	"internal/ratelimit":     {"internal/oci", "internal/web"},
	"internal/auth":          {"internal/access", "internal/auth/htpasswd", "internal/auth/ldap", "internal/auth/oidc", "internal/meta", "internal/oci"},
	"internal/token":         {"internal/auth", "internal/oci", "internal/ratelimit", "internal/web"},
	"internal/distribution":  {"internal/access", "internal/auth", "internal/meta", "internal/oci", "internal/ratelimit", "internal/registry", "internal/web"},
	"internal/auth/ldap":     {},
	"internal/auth/htpasswd": {},
	"internal/admin":         {"internal/access", "internal/audit", "internal/auth", "internal/auth/oidc", "internal/backup", "internal/gc", "internal/meta", "internal/oci", "internal/policy", "internal/ratelimit", "internal/registry", "internal/retention", "internal/scrub", "internal/web"},
	"internal/signin":        {"internal/auth", "internal/auth/oidc", "internal/oci", "internal/ratelimit", "internal/web"},
	"internal/server": {
		"internal/admin", "internal/audit", "internal/auth", "internal/backup", "internal/auth/htpasswd", "internal/auth/ldap", "internal/auth/oidc", "internal/token",
		"internal/blob", "internal/blob/fs", "internal/blob/s3", "internal/certificate", "internal/distribution", "internal/fsck", "internal/gc", "internal/http1", "internal/job", "internal/journal",
		"internal/meta", "internal/oci", "internal/pulls", "internal/ratelimit", "internal/registry", "internal/retention", "internal/scrub", "internal/signin", "internal/upstream", "internal/web",
	},
	"cmd/berth": {"internal/access", "internal/admin", "internal/audit", "internal/auth/oidc", "internal/backup", "internal/blob", "internal/blob/fs", "internal/certificate", "internal/fsck", "internal/gc", "internal/journal", "internal/meta", "internal/move", "internal/oci", "internal/policy", "internal/retention", "internal/server", "internal/signin", "internal/upstream"},
}

// outside says what the packages beside internal and cmd may import, tests included. They drive the
// built binary and know nothing of what is in it, save where a test looks into the data of a killed server, the model, which
// is compared after each of very many steps, and the world of tests in internal.
var outside = map[string][]string{
	"test/cluster": {"internal/fsck", "internal/oci", "test/harness", "test/service"},
	"test/crash":   {"internal/fsck", "internal/gc", "internal/meta", "internal/oci", "internal/scrub", "test/harness", "test/service"},
	"test/model":   {"internal/access", "internal/admin", "internal/blob", "internal/blob/fs", "internal/fsck", "internal/gc", "internal/meta", "internal/oci", "internal/policy", "internal/registry", "internal/retention", "test/service"},
	"test/hostile": {"internal/fsck", "internal/oci", "test/harness"},
	"test/world":   {"internal/blob", "internal/blob/fs", "internal/blob/s3", "internal/fsck", "internal/meta", "internal/oci", "internal/registry", "test/service"},
	"test":         {"test/harness", "test/service"},
	"bench":        {"bench", "test/harness", "test/service"},
	// What is measured is between the packages, and would be lost in the time of requests.
	"bench/retention": {"internal/meta", "internal/oci", "internal/policy", "internal/retention", "test/harness", "test/service"},
}

// TestImports holds the directions in which packages may depend on each other.
func TestImports(t *testing.T) {
	seen := make(map[string]bool)
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if name != ".." && strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		pkg := path.Dir(strings.TrimPrefix(filepath.ToSlash(file), "../"))
		inside := strings.HasPrefix(pkg, "internal/") || strings.HasPrefix(pkg, "cmd/")
		if strings.HasSuffix(name, "_test.go") && (inside || pkg == "internal") {
			return nil // tests of a package may use whatever does not make a cycle
		}
		seen[pkg] = true
		may, ok := allowed[pkg]
		if !inside {
			may, ok = ruleOutside(pkg)
		}
		if !ok {
			t.Errorf("%s is not in the table of imports: add it", pkg)
			return nil
		}
		for _, p := range imports(t, file) {
			if !slices.ContainsFunc(may, func(m string) bool { return p == m || m == "bench" && strings.HasPrefix(p, "bench/") }) {
				t.Errorf("%s: package %s must not import %s", file, pkg, p)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range allowed {
		if !seen[pkg] {
			t.Errorf("%s is in the table of imports, but not in the tree: remove it", pkg)
		}
	}
}

// ruleOutside finds the rule of a package, or of the folder that it is in.
func ruleOutside(pkg string) ([]string, bool) {
	for p := pkg; p != "."; p = path.Dir(p) {
		if may, ok := outside[p]; ok {
			return may, true
		}
	}
	return nil, false
}

// imports returns which of our packages a file imports, on any platform.
func imports(t *testing.T, file string) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for _, i := range f.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if rest, ok := strings.CutPrefix(p, module); ok {
			ours = append(ours, rest)
		}
	}
	return ours
}

// TestImportTableHasNoCycle keeps the table itself honest: a package comes after all that it imports.
func TestImportTableHasNoCycle(t *testing.T) {
	done := make(map[string]bool)
	for range allowed {
		for pkg, may := range allowed {
			if !slices.ContainsFunc(may, func(p string) bool { return !done[p] }) {
				done[pkg] = true
			}
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(allowed)) {
		if !done[pkg] {
			t.Errorf("%s may import itself by way of others, or what is not in the table", pkg)
		}
	}
}
