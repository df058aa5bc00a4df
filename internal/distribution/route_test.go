package distribution

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Every route has an access level that fits its method.
func TestRoutes(t *testing.T) {
	type key struct {
		k      kind
		method string
	}
	seen := make(map[key]bool)
	levels := map[string][]routeAccess{
		"GET":    {accessNone, accessList, accessPull, accessPush},
		"POST":   {accessPush},
		"PUT":    {accessPush},
		"PATCH":  {accessPush},
		"DELETE": {accessDelete, accessPush},
	}
	for _, r := range routes {
		if seen[key{r.kind, r.method}] {
			t.Errorf("%s %s is there twice", r.method, r.kind)
		}
		seen[key{r.kind, r.method}] = true
		if r.serve == nil || !slices.Contains(levels[r.method], r.access) {
			t.Errorf("%s %s has the access level %q", r.method, r.kind, r.access)
		}
		// What names no repository needs none of a repository's rights, and the other way round.
		ofRepository := !slices.Contains([]kind{kindBase, kindCatalog, kindSearch, kindSearchPing}, r.kind)
		if ofRepository == (r.access == accessNone || r.access == accessList) {
			t.Errorf("%s %s has the access level %q", r.method, r.kind, r.access)
		}
		// Deleting content and cancelling one's own upload differ.
		if r.method == "DELETE" && (r.kind == kindUpload) != (r.access == accessPush) {
			t.Errorf("%s %s has the access level %q", r.method, r.kind, r.access)
		}
	}
}

func TestFind(t *testing.T) {
	for _, r := range routes {
		if got, _ := find(r.kind, r.method); got == nil || got.kind != r.kind || got.method != r.method {
			t.Errorf("%s %s finds %v", r.method, r.kind, got)
		}
		if r.method == http.MethodGet {
			if got, _ := find(r.kind, http.MethodHead); got == nil || got.method != http.MethodGet {
				t.Errorf("HEAD %s finds %v", r.kind, got)
			}
		}
		for _, method := range []string{"", "get", "OPTIONS", "TRACE", "CONNECT", "BREW", "PROPFIND"} {
			got, allow := find(r.kind, method)
			if got != nil || !slices.Contains(strings.Split(allow, ", "), r.method) {
				t.Errorf("%s %s finds %v and allows %q", method, r.kind, got, allow)
			}
		}
	}
}
