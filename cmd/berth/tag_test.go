package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// manyTags returns the address of s as if its repository "one" had n tags, all the same as "base".
func manyTags(t *testing.T, s *harness.Server, n int) string {
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	harness.NewAPI(t, s).PushImage("one", "base", harness.NewImage("amd64", nil))
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/tags/list"):
			first := 0
			if last := r.FormValue("last"); last != "" {
				first, _ = strconv.Atoi(strings.TrimPrefix(last, "t"))
				first++
			}
			var tags []string
			for i := first; i < min(first+1000, n); i++ {
				tags = append(tags, fmt.Sprintf(`"t%06d"`, i))
			}
			if first+1000 < n {
				w.Header().Set("Link", fmt.Sprintf(`</v2/one/tags/list?last=t%06d&n=1000>; rel="next"`, first+999))
			}
			fmt.Fprintf(w, `{"name":"one","tags":[%s]}`, strings.Join(tags, ","))
			return
		case strings.Contains(r.URL.Path, "/manifests/t"):
			r.URL.Path = "/v2/one/manifests/base"
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://")
}

// list runs "berth tag ls" and returns the count of lines and the peak of memory in KiB.
func list(t *testing.T, args ...string) (lines int, peak int64) {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), append([]string{"tag", "ls"}, args...)...)
	cmd.Env = append(environ(), "HOME="+t.TempDir())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	return bytes.Count(out, []byte("\n")), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
}

// However many tags a repository has, they are printed as they come. Other tests do not run meanwhile: a process counts its peak of memory from that of the one
// that started it.
func TestTagListMemory(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the unit of Maxrss is Linux's")
	}
	s := harness.Start(t, harness.Settings{})
	small, large := manyTags(t, s, 1000), manyTags(t, s, 100_000)
	details := manyTags(t, s, 5000)

	lines, few := list(t, "--quiet", small+"/one")
	if lines != 1000 {
		t.Errorf("%d lines, expected 1000", lines)
	}
	lines, many := list(t, "--quiet", large+"/one")
	if lines != 100_000 {
		t.Errorf("%d lines, expected 100000", lines)
	}
	if many > few+16<<10 {
		t.Errorf("a list of 100,000 tags takes %d KiB, one of 1,000 takes %d KiB", many, few)
	}
	lines, few = list(t, small+"/one")
	if lines != 1001 {
		t.Errorf("%d lines with details, expected 1000 and the header", lines)
	}
	lines, many = list(t, details+"/one")
	if lines != 5001 {
		t.Errorf("%d lines with details, expected 5000 and the header", lines)
	}
	if many > few+16<<10 {
		t.Errorf("details of 5,000 tags take %d KiB, those of 1,000 take %d KiB", many, few)
	}
}

// --quiet asks for nothing but the list.
func TestTagListQuietRequests(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	harness.NewAPI(t, s).PushImage("one", "a", harness.NewImage("amd64", nil))
	tap := harness.NewTap(t, s.Addr)
	list(t, "--quiet", tap.Addr+"/one")
	if seen := tap.Exchanges("/"); len(seen) != 1 || seen[0].URL.Path != "/v2/one/tags/list" {
		t.Errorf("%d requests", len(seen))
	}
}
