package hostile

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Names, tags and digests outside of the grammar are refused as the specification says, however
// they are written into the path.
func TestPaths(t *testing.T) {
	s := shared.Get(t)
	works(t, sharedAPI(t), "path/app")
	long := strings.Repeat("a", 300)
	for _, test := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/UPPER/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/path/../path/app/manifests/works", 400, "NAME_INVALID"},
		{"GET", "/v2/path/app/../app/manifests/works", 400, "NAME_INVALID"},
		{"GET", "/v2/path/%2e%2e/path/app/manifests/works", 400, "NAME_INVALID"},
		{"GET", "/v2/%2e%2e%2fetc/blobs/" + someDigest, 400, "NAME_INVALID"},
		{"GET", "/v2/..%5c..%5cetc/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/path//app/manifests/works", 400, "NAME_INVALID"},
		{"GET", "/v2//path/app/manifests/works", 400, "NAME_INVALID"},
		{"GET", "//v2/path/app/manifests/works", 404, "UNSUPPORTED"},
		{"GET", "/v2/path/app%00/manifests/works", 400, "NAME_INVALID"},
		{"GET", "/v2/path/%61pp/manifests/works%00", 400, "MANIFEST_INVALID"},
		{"GET", "/v2/path/app/manifests/%2e%2e", 400, "MANIFEST_INVALID"},
		{"GET", "/v2/path/app/manifests/" + long, 400, "MANIFEST_INVALID"},
		{"GET", "/v2/" + long + "/manifests/1", 400, "NAME_INVALID"},
		{"GET", "/v2/" + strings.Repeat("a/", 5000) + "manifests/1", 400, "NAME_INVALID"},
		{"PUT", "/v2/-a/manifests/1", 400, "NAME_INVALID"},
		{"PUT", "/v2/a..b/manifests/1", 400, "NAME_INVALID"},
		{"PUT", "/v2/a___b/manifests/1", 400, "NAME_INVALID"},
		{"POST", "/v2/a./blobs/uploads/", 400, "NAME_INVALID"},
		{"POST", "/v2/caf%C3%A9/blobs/uploads/", 400, "NAME_INVALID"},
		{"GET", "/v2/path/app/blobs/sha256:xyz", 400, "DIGEST_INVALID"},
		{"GET", "/v2/path/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"},
		{"GET", "/v2/path/app/blobs/" + strings.ToUpper(someDigest), 400, "DIGEST_INVALID"},
		{"GET", "/v2/path/app/blobs/sha256:..%2f..%2f..%2fetc%2fpasswd", 404, ""},
		{"GET", "/v2/path/app/referrers/works", 400, "DIGEST_INVALID"},
		{"GET", "/v2/path/app/blobs/" + someDigest, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/path/app/manifests/none", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/path/app/manifests/" + someDigest, 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/path/none/tags/list", 404, "NAME_UNKNOWN"},
		{"DELETE", "/v2/path/app/manifests/none", 404, "MANIFEST_UNKNOWN"},
		{"DELETE", "/v2/path/app/blobs/" + someDigest, 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/path/app/blobs/uploads/00000000-0000-0000-0000-000000000000", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"GET", "/", 404, ""},
		{"GET", "/v1/users/", 404, ""},
		{"GET", "/v2/path/app", 404, ""},
		{"GET", "/v2/path/app/", 404, ""},
		{"GET", "/v2/path/app/manifests", 404, ""},
		{"GET", "/v2/path/app/tags/list/", 404, ""},
		{"GET", "/v2/token", 404, ""},
		{"GET", "/favicon.ico", 404, ""},
		{"GET", "/%2e%2e/%2e%2e/etc/passwd", 404, ""},
		{"GET", "/../../etc/passwd", 404, ""},
		{"GET", "http://elsewhere/v2/path/none/tags/list", 404, "NAME_UNKNOWN"},
	} {
		t.Run(fmt.Sprintf("%s %.60s", test.method, test.path), func(t *testing.T) {
			resp, body := raw(t, s, test.method+" "+test.path+" HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			wantError(t, resp, body, test.status, test.code)
		})
	}
}

// What is no HTTP is refused before it costs anything, and hurts nobody.
func TestNoHTTP(t *testing.T) {
	s := shared.Get(t)
	for _, text := range []string{
		strings.Repeat("\x00", 100) + "\r\n\r\n",
		"GET /v2/\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v2/a b HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v2/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET /v2/ HTTP/1.1\r\n\r\n",
		"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
		"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
		"GET /v2/ HTTP/1.1\r\nHost: x\r\nbad\x00header: 1\r\n\r\n",
		"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
		"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
		"PUT /v2/a/manifests/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03TLS\r\n\r\n",
	} {
		resp, _ := raw(t, s, text)
		if resp.StatusCode < 400 || resp.StatusCode >= 600 {
			t.Errorf("%q: status %d", text, resp.StatusCode)
		}
	}
	// A request must not be smuggled behind another one.
	resp, _ := raw(t, s, "PUT /v2/smuggle/manifests/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET")
	if resp.StatusCode != 400 {
		t.Errorf("two lengths: status %d", resp.StatusCode)
	}
	works(t, sharedAPI(t), "path/nohttp")
}

// A method that is not served is 405 with those that are.
func TestMethods(t *testing.T) {
	api := sharedAPI(t)
	works(t, api, "path/methods")
	upload := strings.SplitN(api.StartUpload("path/methods"), "?", 2)[0]
	for path, allowed := range map[string]string{
		"/v2/":                                 "GET, HEAD",
		"/v2/_catalog":                         "GET, HEAD",
		"/v1/_ping":                            "GET, HEAD",
		"/v1/search":                           "GET, HEAD",
		"/v2/path/methods/tags/list":           "GET, HEAD",
		"/v2/path/methods/manifests/works":     "GET, HEAD, PUT, DELETE",
		"/v2/path/methods/blobs/" + someDigest: "GET, HEAD, DELETE",
		"/v2/path/methods/blobs/uploads/":      "POST",
		upload:                                 "PATCH, PUT, GET, HEAD, DELETE",
		"/v2/path/methods/referrers/" + someDigest: "GET, HEAD",
	} {
		allow := strings.Split(allowed, ", ")
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW", "get"} {
			if slices.Contains(allow, method) {
				continue
			}
			resp := api.Do(method, path, nil)
			wantFailure(t, resp, http.StatusMethodNotAllowed, "UNSUPPORTED")
			got := strings.Split(resp.Header.Get("Allow"), ", ")
			slices.Sort(got)
			want := slices.Sorted(slices.Values(allow))
			if !slices.Equal(got, want) {
				t.Errorf("%s allows %q, expected %q", path, got, want)
			}
		}
	}
}

// Parameters that make no sense are refused, or mean nothing.
func TestParameters(t *testing.T) {
	api := sharedAPI(t)
	works(t, api, "path/params")
	long := strings.Repeat("x", 10_000)
	for path, status := range map[string]int{
		"/v2/_catalog?n=-1":                                                 400,
		"/v2/_catalog?n=abc":                                                400,
		"/v2/_catalog?n=" + strings.Repeat("9", 5000):                       200,
		"/v2/_catalog?last=" + long:                                         200,
		"/v2/_catalog?last=%00%ff":                                          200,
		"/v2/_catalog?n=1&n=-1":                                             200,
		"/v2/_catalog?%zz=1&n=1":                                            200,
		"/v2/path/params/tags/list?n=-1":                                    400,
		"/v2/path/params/tags/list?n=abc":                                   400,
		"/v2/path/params/tags/list?n=1000000000000000000000":                200,
		"/v2/path/params/tags/list?last=' OR 1=1 --":                        200,
		"/v2/path/params/referrers/" + someDigest + "?n=-1":                 400,
		"/v2/path/params/referrers/" + someDigest + "?last=x":               400,
		"/v2/path/params/referrers/" + someDigest + "?artifactType=" + long: 200,
		"/v2/path/params/manifests/works?ns=" + long:                        200,
		"/v2/path/params/manifests/works?ns=a%0d%0aX-Evil:1":                200,
		"/v1/search?q=%25&n=-5":                                             400,
		"/v1/search?q=%25%5f%5c'&n=5":                                       200,
	} {
		resp := api.Do("GET", strings.ReplaceAll(path, " ", "%20"), nil)
		if status == 400 {
			wantFailure(t, resp, 400, "")
		} else if resp.StatusCode != status || resp.Header.Get("X-Evil") != "" {
			t.Errorf("%.80s: status %d, %v", path, resp.StatusCode, resp.Header)
		}
	}
	for _, query := range []string{"?digest=x", "?digest=sha256:1", "?mount=x", "?mount=x&from=path/params", "?digest-algorithm=md5"} {
		wantFailure(t, api.Do("POST", "/v2/path/params/blobs/uploads/"+query, []byte("x")), 400, "DIGEST_INVALID")
	}
	// A mount from what cannot be is an upload (see the clients' demands).
	api.Expect(202, "POST", "/v2/path/params/blobs/uploads/?mount="+someDigest+"&from=../etc", nil)
}

// Accept is not an order: the stored bytes are the answer.
func TestAccept(t *testing.T) {
	api := sharedAPI(t)
	works(t, api, "path/accept")
	want := api.Expect(200, "GET", "/v2/path/accept/manifests/works", nil)
	for _, accept := range []string{"", "text/html", "*/*;q=0", ";;;", strings.Repeat("a/b,", 2000), "application/vnd.docker.distribution.manifest.v1+json"} {
		got := api.Expect(200, "GET", "/v2/path/accept/manifests/works", nil, map[string]string{"Accept": accept})
		if string(got.Bytes) != string(want.Bytes) || got.Header.Get("Content-Type") != want.Header.Get("Content-Type") {
			t.Errorf("Accept %.50q changes the answer", accept)
		}
	}
	for _, encoding := range []string{"gzip", "br, *;q=0", "identity;q=0"} {
		got := api.Expect(200, "GET", "/v2/path/accept/manifests/works", nil, map[string]string{"Accept-Encoding": encoding})
		if string(got.Bytes) != string(want.Bytes) || got.Header.Get("Content-Encoding") != "" {
			t.Errorf("Accept-Encoding %q changes the answer", encoding)
		}
	}
}
