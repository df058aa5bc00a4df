package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berthregistry/berth/test/harness"
)

// newCurl returns curl, which prints the last answer's status and version after what
// it is told to print.
func newCurl(t *testing.T) *harness.Client {
	t.Helper()
	return harness.NewClient(t, "curl", "--silent", "--show-error", "--write-out", "%{http_code} %{http_version}")
}

func location(t *testing.T, headers string) string {
	t.Helper()
	for line := range strings.Lines(headers) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(name, "Location") {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no Location in\n%s", headers)
	return ""
}

// curl streams a file of unknown length over each version of HTTP, and reads it back.
func TestCurlStreamsOverEachHTTPVersion(t *testing.T) {
	t.Parallel()
	base := "http://" + host(t)
	blob := harness.Random(3 << 20)
	for _, v := range []struct{ flag, version string }{{"--http1.1", "1.1"}, {"--http2-prior-knowledge", "2"}} {
		c := newCurl(t)
		repo := "curl/stream" + strings.ReplaceAll(v.flag, ".", "-")[1:]
		out := c.Run(v.flag, "--dump-header", "-", "--request", "POST", "--data", "", base+"/v2/"+repo+"/blobs/uploads/")
		harness.Contains(t, out, "202 "+v.version)
		// From a pipe, so that curl does not know the length.
		out = c.RunInput(string(blob), v.flag, "--dump-header", "-", "--request", "PATCH", "--upload-file", "-", base+location(t, out))
		harness.Contains(t, out, "202 "+v.version)
		out = c.Run(v.flag, "--dump-header", "-", "--request", "PUT", "--data", "", base+harness.WithDigest(location(t, out), digest.FromBytes(blob).String()))
		harness.Contains(t, out, "201 "+v.version)
		file := filepath.Join(c.Home, "blob")
		if got := c.Run(v.flag, "--output", file, base+"/v2/"+repo+"/blobs/"+digest.FromBytes(blob).String()); got != "200 "+v.version {
			t.Errorf("%s: the blob was answered with %s", v.flag, got)
		}
		if got, err := os.ReadFile(file); err != nil || !slices.Equal(got, blob) {
			t.Errorf("%s: the blob came back with %d bytes (%v)", v.flag, len(got), err)
		}
	}
}

func TestCurlResumesDownload(t *testing.T) {
	t.Parallel()
	c := newCurl(t)
	blob := harness.NewBlob("", harness.Random(1<<20))
	api(t).PushBlob("curl/resume", blob)
	url := "http://" + host(t) + "/v2/curl/resume/blobs/" + blob.Digest.String()
	file := filepath.Join(c.Home, "blob")
	if err := os.WriteFile(file, blob.Bytes[:300_000], 0o644); err != nil {
		t.Fatal(err)
	}
	if got := c.Run("--continue-at", "-", "--output", file, url); got != "206 1.1" {
		t.Errorf("the rest was answered with %s", got)
	}
	if got, err := os.ReadFile(file); err != nil || !slices.Equal(got, blob.Bytes) {
		t.Errorf("the file has %d bytes (%v)", len(got), err)
	}
	for _, r := range []struct{ asked, content string }{
		{"0-9", string(blob.Bytes[:10])},
		{"-5", string(blob.Bytes[1<<20-5:])},
		{"1048570-", string(blob.Bytes[1048570:])},
	} {
		if got := c.Run("--range", r.asked, url); got != r.content+"206 1.1" {
			t.Errorf("range %s was answered with %d bytes and %q", r.asked, len(got), got[max(0, len(got)-7):])
		}
	}
	if got := c.Run("--output", "/dev/null", "--range", "1048576-", url); got != "416 1.1" {
		t.Errorf("a range behind the end was answered with %s", got)
	}
	harness.Contains(t, c.Run("--dump-header", "-", "--output", "/dev/null", "--range", "0-1,5-6", url), "multipart/byteranges", "206 1.1")
}

// curl announces a large body and waits for leave to send it.
func TestCurlExpectContinue(t *testing.T) {
	t.Parallel()
	c := newCurl(t)
	blob := harness.Random(2 << 20)
	file := filepath.Join(c.Home, "blob")
	if err := os.WriteFile(file, blob, 0o644); err != nil {
		t.Fatal(err)
	}
	put := func(digest string) string {
		return c.Run("--expect100-timeout", "10", "--header", "Expect: 100-continue", "--dump-header", "-", "--upload-file", file,
			"http://"+host(t)+harness.WithDigest(api(t).StartUpload("curl/expect"), digest))
	}
	harness.Contains(t, put(digest.FromBytes(blob).String()), "HTTP/1.1 100 Continue", "201 1.1")
	harness.Contains(t, put("sha256:"+strings.Repeat("0", 64)), "DIGEST_INVALID", "400 1.1")
	// What is refused for its name needs no body, and the answer does not wait for one.
	start := time.Now()
	out := c.Run("--expect100-timeout", "10", "--header", "Expect: 100-continue", "--dump-header", "-", "--upload-file", file,
		"http://"+host(t)+"/v2/curl/UPPER/blobs/uploads/x?digest="+digest.FromBytes(blob).String())
	harness.Contains(t, out, "NAME_INVALID", "400 1.1")
	if strings.Contains(out, "100 Continue") {
		t.Error("the server asked for a body that it had no use for")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the refusal came after %v, when curl had given up waiting and sent its body", took)
	}
}

func TestCurlHTTP10AndOddRequests(t *testing.T) {
	t.Parallel()
	c := newCurl(t)
	base := "http://" + host(t)
	// The server answers with its own version, curl prints 1.0 as 1.
	if out := c.Run("--http1.0", base+"/v2/"); !strings.HasSuffix(out, "200 1.1") && !strings.HasSuffix(out, "200 1") {
		t.Errorf("HTTP/1.0 was answered with %q", out)
	}
	for _, r := range []struct {
		args   []string
		status int
	}{
		{[]string{base + "/v2"}, 0}, // 200, or a redirect to /v2/
		{[]string{"--path-as-is", base + "/v2/../../etc/passwd"}, 404},
		{[]string{"--path-as-is", base + "/v2/a/../b/manifests/latest"}, 400},
		{[]string{"--path-as-is", base + "/v2//manifests/latest"}, 0},
		{[]string{base + "/v2/a/manifests/" + strings.Repeat("x", 129)}, 400},
		{[]string{base + "/v2/a/blobs/sha256:short"}, 400},
		{[]string{base + "/v2/a/blobs/md5:" + strings.Repeat("0", 32)}, 400},
		{[]string{base + "/v2/" + strings.Repeat("a/", 200) + "a/tags/list"}, 400},
		{[]string{"--request", "TRACE", base + "/v2/"}, 405},
		{[]string{"--request", "POST", "--data", "", base + "/v2/"}, 405},
		{[]string{"--request", "PATCH", "--data", "x", base + "/v2/a/blobs/sha256:" + strings.Repeat("0", 64)}, 405},
		{[]string{"--header", "X-Large: " + strings.Repeat("x", 100_000), base + "/v2/"}, 431},
	} {
		out := c.Run(append([]string{"--output", "/dev/null"}, r.args...)...)
		status, _, _ := strings.Cut(out, " ")
		if r.status == 0 {
			if status >= "500" || status < "200" {
				t.Errorf("%.200v was answered with %s", r.args, status)
			}
			continue
		}
		if status != fmt.Sprint(r.status) {
			t.Errorf("%.200v was answered with %s, expected %d", r.args, status, r.status)
		}
	}
}
