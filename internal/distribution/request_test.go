package distribution

import (
	"errors"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

var someDigest = oci.DigestBytes(oci.SHA256, []byte("x")).String()

func TestParse(t *testing.T) {
	long := strings.Repeat("a", 255)
	for _, test := range []struct {
		path string
		kind kind
		repo oci.Repository
		code oci.Code // of the error
	}{
		{"/v2/", kindBase, "", ""},
		{"/v2", kindBase, "", ""},
		{"/v2/_catalog", kindCatalog, "", ""},
		{"/v1/_ping", kindSearchPing, "", ""},
		{"/v1/search", kindSearch, "", ""},
		{"/v2/a/tags/list", kindTags, "a", ""},
		{"/v2/a/manifests/1.0", kindManifest, "a", ""},
		{"/v2/a/b/c/d/manifests/" + someDigest, kindManifest, "a/b/c/d", ""},
		{"/v2/a/blobs/" + someDigest, kindBlob, "a", ""},
		{"/v2/a/blobs/uploads/", kindUploads, "a", ""},
		{"/v2/a/blobs/uploads", kindUploads, "a", ""},
		{"/v2/a/blobs/uploads/id", kindUpload, "a", ""},
		{"/v2/a/referrers/" + someDigest, kindReferrers, "a", ""},
		{"/v2/" + long + "/tags/list", kindTags, oci.Repository(long), ""},
		// Nouns are allowed as parts of a name.
		{"/v2/manifests/manifests/manifests", kindManifest, "manifests", ""},
		{"/v2/tags/list/tags/list", kindTags, "tags/list", ""},
		{"/v2/a/blobs/manifests/1", kindManifest, "a/blobs", ""},
		{"/v2/blobs/uploads/blobs/uploads/", kindUploads, "blobs/uploads", ""},
		{"/v2/a/blobs/uploads/tags/list", kindTags, "a/blobs/uploads", ""},

		{"/v2/a", kindUnknown, "", oci.CodeUnsupported},
		{"/v2/a/b", kindUnknown, "", oci.CodeUnsupported},
		{"/v2//", kindUnknown, "", oci.CodeUnsupported},
		{"/v2/a/tags/", kindUnknown, "", oci.CodeUnsupported},
		{"/v2/_catalog/", kindUnknown, "", oci.CodeUnsupported},
		{"/v3/", kindUnknown, "", oci.CodeUnsupported},
		{"", kindUnknown, "", oci.CodeUnsupported},
		{"/v2/tags/list", kindTags, "", oci.CodeNameInvalid},
		{"/v2/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2//manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/a//b/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/a/../b/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/../manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/a/./b/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/A/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/a\x00/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/a%2e%2e/manifests/1", kindManifest, "", oci.CodeNameInvalid},
		{"/v2/" + long + "a/tags/list", kindTags, "", oci.CodeNameInvalid},
		{"/v2/a/manifests/", kindManifest, "a", oci.CodeManifestInvalid},
		{"/v2/a/manifests/..", kindManifest, "a", oci.CodeManifestInvalid},
		{"/v2/a/manifests/-1", kindManifest, "a", oci.CodeManifestInvalid},
		{"/v2/a/manifests/" + strings.Repeat("t", 129), kindManifest, "a", oci.CodeManifestInvalid},
		{"/v2/a/manifests/sha256:1", kindManifest, "a", oci.CodeDigestInvalid},
		{"/v2/a/blobs/latest", kindBlob, "a", oci.CodeDigestInvalid},
		{"/v2/a/blobs/", kindBlob, "a", oci.CodeDigestInvalid},
		{"/v2/a/referrers/latest", kindReferrers, "a", oci.CodeDigestInvalid},
		{"/v2/a/blobs/uploads/" + strings.Repeat("i", 65), kindUpload, "a", oci.CodeBlobUploadUnknown},
	} {
		req, err := parse(&http.Request{URL: &url.URL{Path: test.path}})
		var code oci.Code
		if e, ok := errors.AsType[*oci.Error](err); ok {
			code = e.Code
		}
		if req.kind != test.kind || req.repository != test.repo || code != test.code || (err != nil) != (test.code != "") {
			t.Errorf("%.80q is %s of %q, %v; expected %s of %q, %s", test.path, req.kind, req.repository, err, test.kind, test.repo, test.code)
		}
	}
}

// Whatever is accepted is what the path says, written in one way only.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"/v2/", "/v2/a/manifests/1", "/v2/a/b/blobs/" + someDigest, "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/id",
		"/v2/a/tags/list", "/v2/a/referrers/" + someDigest, "/v2/a/../manifests/1", "/v2/a/manifests/sha256:",
	} {
		f.Add(s, "n=1&last=x&ns=docker.io")
	}
	f.Fuzz(func(t *testing.T, path, query string) {
		req, err := parse(&http.Request{URL: &url.URL{Path: path, RawQuery: query}})
		if err != nil {
			if _, ok := errors.AsType[*oci.Error](err); !ok {
				t.Fatalf("%q: %v is not for clients", path, err)
			}
			return
		}
		if row, allow := find(req.kind, "BREW"); row != nil || allow == "" {
			t.Errorf("%q is %s, for which nothing is served", path, req.kind)
		}
		if req.namespace != "" && !validHost(req.namespace) {
			t.Errorf("namespace %q", req.namespace)
		}
		if req.repository != "" {
			if r, err := oci.ParseRepository(string(req.repository)); err != nil || r != req.repository {
				t.Errorf("%q has the repository %q: %v", path, req.repository, err)
			}
		}
		name := "/v2/" + string(req.repository)
		var want []string
		switch req.kind {
		case kindTags:
			want = []string{name + "/tags/list"}
		case kindManifest:
			want = []string{name + "/manifests/" + req.reference.String()}
		case kindBlob:
			want = []string{name + "/blobs/" + req.digest.String()}
		case kindUploads:
			want = []string{name + "/blobs/uploads", name + "/blobs/uploads/"}
		case kindUpload:
			want = []string{name + "/blobs/uploads/" + req.uploadID}
		case kindReferrers:
			want = []string{name + "/referrers/" + req.digest.String()}
		default:
			return
		}
		for _, w := range want {
			if w == path {
				return
			}
		}
		t.Errorf("%q is taken for %q", path, want)
	})
}

func TestPageSize(t *testing.T) {
	for query, want := range map[string]int{
		"": 7, "n=": 7, "n=0": 0, "n=1": 1, "n=99": 99, "n=100": 100, "n=101": 100, "n=10000": 100,
		"n=9223372036854775807": 100, "n=9223372036854775808": 100, "n=" + strings.Repeat("9", 1000): 100, "n=007": 7,
		"n=-1": -1, "n=abc": -1, "n=1.5": -1, "n=0x10": -1, "n=1e3": -1, "n=%20": -1, "n=1%00": -1, "n=-99999999999999999999": -1, "n=٣": -1,
	} {
		req := &request{}
		req.query, _ = url.ParseQuery(query)
		got, err := req.pageSize(7, 100)
		if want < 0 {
			if e, ok := errors.AsType[*oci.Error](err); !ok || e.HTTPStatus() != http.StatusBadRequest {
				t.Errorf("%s: %d, %v, expected a refusal", query, got, err)
			}
		} else if err != nil || got != want {
			t.Errorf("%.30s: %d, %v, expected %d", query, got, err, want)
		}
	}
}

func FuzzPageSize(f *testing.F) {
	f.Add("0")
	f.Add("-1")
	f.Add("99999999999999999999")
	f.Fuzz(func(t *testing.T, n string) {
		req := &request{query: url.Values{"n": {n}}}
		got, err := req.pageSize(7, 100)
		if err == nil && (got < 0 || got > 100) {
			t.Errorf("%q is a page of %d", n, got)
		}
		if v, e := strconv.ParseUint(n, 10, 63); e == nil && (err != nil || got != int(min(v, 100))) {
			t.Errorf("%q is a page of %d, %v", n, got, err)
		}
	})
}

func TestParseContentRange(t *testing.T) {
	for s, want := range map[string]*byteRange{
		"0-0":                    {0, 0},
		"0-1023":                 {0, 1023},
		"5-5":                    {5, 5},
		"0-9223372036854775806":  {0, math.MaxInt64 - 1},
		"":                       nil,
		"0-9223372036854775807":  nil,
		"0-9223372036854775808":  nil,
		"1-0":                    nil,
		"-":                      nil,
		"0-":                     nil,
		"-1":                     nil,
		"a-b":                    nil,
		"0--1":                   nil,
		"+0-1":                   nil,
		"0 - 1":                  nil,
		"0-1-2":                  nil,
		"bytes 0-1/2":            nil,
		"bytes=0-1":              nil,
		"0-1/2":                  nil,
		"0x0-0x1":                nil,
		strings.Repeat("9", 1e6): nil,
	} {
		got, err := parseContentRange(s)
		switch {
		case want != nil && (err != nil || got == nil || *got != *want):
			t.Errorf("%.40q is %v, %v, expected %v", s, got, err, want)
		case want == nil && (got != nil || (err == nil) != (s == "")):
			t.Errorf("%.40q is %v, %v, expected a refusal", s, got, err)
		case err != nil && len(err.Error()) > 500:
			t.Errorf("%.40q is refused with %d bytes", s, len(err.Error()))
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	f.Add("0-1023")
	f.Add("9223372036854775806-9223372036854775807")
	f.Add("bytes 0-1/2")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseContentRange(s)
		if r == nil {
			if err == nil && s != "" {
				t.Errorf("%q is neither a range nor an error", s)
			}
			return
		}
		if r.first < 0 || r.last < r.first || r.length() <= 0 {
			t.Errorf("%q is %+v of %d bytes", s, *r, r.length())
		}
		if a, b, _ := strings.Cut(s, "-"); strings.TrimLeft(a, "0") != strings.TrimLeft(strconv.FormatInt(r.first, 10), "0") ||
			strings.TrimLeft(b, "0") != strings.TrimLeft(strconv.FormatInt(r.last, 10), "0") {
			t.Errorf("%q is %+v", s, *r)
		}
	})
}
