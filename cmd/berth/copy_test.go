package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// holding returns the address of s behind a proxy that holds back the second half of large blobs until release
// is closed, and tells begun of each.
func holding(t *testing.T, s *harness.Server, begun chan<- struct{}, release <-chan struct{}) string {
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
			proxy.ServeHTTP(w, r)
			return
		}
		resp, err := http.Get(s.URL + r.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		b.ReadFrom(resp.Body)
		w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
		w.Write(b.Next(b.Len() / 2))
		if b.Len() > 1<<20 {
			w.(http.Flusher).Flush()
			begun <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		w.Write(b.Bytes())
	}))
	t.Cleanup(front.Close)
	return strings.TrimPrefix(front.URL, "http://")
}

// pushLarge pushes an image with one layer of 4 MiB.
func pushLarge(t *testing.T, s *harness.Server, repo, tag string) harness.Image {
	image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte(`{"os":"linux","architecture":"amd64"}`)),
		harness.NewBlob(v1.MediaTypeImageLayerGzip, harness.Random(4<<20)))
	harness.NewAPI(t, s).PushImage(repo, tag, image)
	return image
}

func TestCopyInterrupted(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	image := pushLarge(t, s, "from", "1")
	begun := make(chan struct{}, 1)
	slow := holding(t, s, begun, nil)
	tap := harness.NewTap(t, s.Addr)

	cmd := exec.Command(harness.Binary(t), "copy", slow+"/from:1", tap.Addr+"/to:1")
	cmd.Env = append(environ(), "HOME="+t.TempDir())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-begun:
	case <-time.After(patience):
		t.Error("the copy did not begin")
	}
	cmd.Process.Signal(syscall.SIGINT)
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted || !strings.HasSuffix(stderr.String(), "berth: interrupted\n") {
		t.Errorf("%v\n%s", err, &stderr)
	}
	cancelled := 0
	for _, e := range tap.Exchanges("/v2/to/blobs/uploads/") {
		if e.Method == http.MethodDelete && e.Status == http.StatusNoContent {
			cancelled++
		}
	}
	if cancelled != 1 {
		t.Errorf("%d uploads were cancelled", cancelled)
	}
	api := harness.NewAPI(t, s)
	api.Expect(http.StatusNotFound, "HEAD", "/v2/to/manifests/1", nil)
	api.Expect(http.StatusNotFound, "HEAD", "/v2/to/blobs/"+image.Blobs[1].Digest.String(), nil)
}

func TestCopyShowsBarsOnATerminal(t *testing.T) {
	t.Parallel()
	script := harness.Need(t, "script") // which makes a terminal
	s := harness.Start(t, harness.Settings{})
	image := pushLarge(t, s, "from", "1")
	begun, release := make(chan struct{}, 1), make(chan struct{})
	slow := holding(t, s, begun, release)
	line := fmt.Sprintf("stty rows 30 cols 100; '%s' copy %s/from:1 %s/to:1", harness.Binary(t), slow, s.Addr)
	cmd := exec.Command(script, "--quiet", "--return", "--command", line, "/dev/null")
	cmd.Env = append(environ(), "HOME="+t.TempDir(), "TERM=xterm")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-begun
	time.Sleep(time.Second) // so that bars are drawn
	close(release)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	layer := image.Blobs[1].Digest.Encoded()[:12]
	harness.Contains(t, out.String(),
		layer+"  [",
		"2.1 MB / 4.2 MB",
		"total         [",
		"to:1@"+image.Manifest.Digest.String(),
		"2 blobs copied (4.2 MB in ",
	)
	if strings.Contains(out.String(), layer+" 4.2 MB copied") {
		t.Errorf("lines for blobs beside the bars:\n%s", &out)
	}
}
