package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// serveBucket serves a registry whose blobs are in a bucket and returns its URL.
func serveBucket(t *testing.T, bucket *service.Bucket, set func(*Config)) (url, metrics string) {
	t.Helper()
	cfg := Default()
	cfg.Listen, cfg.Data, cfg.Metrics.Listen = "127.0.0.1:0", filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	s := &cfg.Storage.S3
	s.Bucket, s.Endpoint, s.Region = bucket.Name, Endpoint(bucket.Endpoint), bucket.Region
	s.AccessKeyID, s.SecretAccessKey = NewSecret(bucket.AccessKey), NewSecret(bucket.SecretKey)
	set(cfg)
	server, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + server.Addr().String(), "http://" + server.MetricsAddr().String() + "/metrics"
}

// call makes a request, follows no redirect, and returns the answer and its body.
func call(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := client(t, false)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func TestClientsAreSentToTheBucket(t *testing.T) {
	bucket := service.S3(t)
	const content = "the bytes of a layer"
	digest := oci.DigestBytes(oci.SHA256, []byte(content)).String()
	for name, test := range map[string]struct {
		set      func(*Config)
		redirect bool
	}{
		"on":                     {func(c *Config) { c.Storage.S3.Redirect.Mode = SwitchOn }, true},
		"off":                    {func(c *Config) { c.Storage.S3.Redirect.Mode = SwitchOff }, false},
		"auto, a local endpoint": {func(*Config) {}, false},
		"on, but not this client": {func(c *Config) {
			c.Storage.S3.Redirect.Mode, c.Storage.S3.RedirectExcept = SwitchOn, networks(t, "127.0.0.0/8")
		}, false},
		"on, not other clients": {func(c *Config) {
			c.Storage.S3.Redirect.Mode, c.Storage.S3.RedirectExcept = SwitchOn, networks(t, "10.0.0.0/8")
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := serveBucket(t, bucket, test.set)
			if resp, body := call(t, "POST", url+"/v2/app/blobs/uploads/?digest="+digest, content); resp.StatusCode != http.StatusCreated {
				t.Fatal(resp.Status, body)
			}
			blob := url + "/v2/app/blobs/" + digest
			resp, body := call(t, "GET", blob, "")
			if !test.redirect {
				if resp.StatusCode != http.StatusOK || body != content {
					t.Fatalf("%s: %q", resp.Status, body)
				}
				return
			}
			to := resp.Header.Get("Location")
			if resp.StatusCode != http.StatusTemporaryRedirect || !strings.HasPrefix(to, bucket.Endpoint+"/"+bucket.Name+"/") ||
				resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Docker-Content-Digest") != digest || body != "" {
				t.Fatalf("%s to %q: %v", resp.Status, to, resp.Header)
			}
			if strings.Contains(to, bucket.SecretKey) {
				t.Error("the address holds the secret key")
			}
			if resp, body := call(t, "GET", to, ""); resp.StatusCode != http.StatusOK || body != content {
				t.Errorf("from the bucket: %s: %q", resp.Status, body)
			}
			if resp, body := call(t, "GET", to, "", "Range", "bytes=4-8"); resp.StatusCode != http.StatusPartialContent || body != "bytes" {
				t.Errorf("a range from the bucket: %s: %q", resp.Status, body)
			}
			if resp, _ := call(t, "GET", blob, "", "Range", "bytes=4-8"); resp.StatusCode != http.StatusTemporaryRedirect {
				t.Errorf("a range: %s", resp.Status)
			}
			if resp, _ := call(t, "HEAD", blob, ""); resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(content)) {
				t.Errorf("HEAD: %s, %d bytes", resp.Status, resp.ContentLength)
			}
			if resp, _ := call(t, "GET", blob, "", "If-None-Match", `"`+digest+`"`); resp.StatusCode != http.StatusNotModified {
				t.Errorf("If-None-Match: %s", resp.Status)
			}
			if resp, _ := call(t, "GET", strings.Replace(blob, "app", "other", 1), ""); resp.StatusCode != http.StatusNotFound {
				t.Errorf("from a repository that lacks it: %s", resp.Status)
			}
		})
	}
}

func networks(t *testing.T, texts ...string) (out []Network) {
	t.Helper()
	for _, s := range texts {
		out = append(out, Network{netip.MustParsePrefix(s)})
	}
	return out
}

// A bucket that is away is 503 and named by /readyz; what needs no bucket goes on.
func TestBucketIsAway(t *testing.T) {
	s3 := service.NewS3(t)
	url, metrics := serveBucket(t, s3.Bucket(t), func(*Config) {})
	const content = "{}"
	digest := oci.DigestBytes(oci.SHA256, []byte(content)).String()
	if resp, body := call(t, "POST", url+"/v2/app/blobs/uploads/?digest="+digest, content); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status, body)
	}
	manifest := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + digest + `","size":2},"layers":[]}`
	if resp, body := call(t, "PUT", url+"/v2/app/manifests/1", manifest, "Content-Type", "application/vnd.oci.image.manifest.v1+json"); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status, body)
	}
	if resp, body := call(t, "GET", url+"/readyz", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, body)
	}
	s3.Stop()
	if resp, body := call(t, "GET", url+"/readyz", ""); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"check":"blobs","since":"20`) {
		t.Errorf("/readyz: %s: %s", resp.Status, body)
	}
	if resp, body := call(t, "GET", url+"/v2/app/manifests/1", ""); resp.StatusCode != http.StatusOK || body != manifest {
		t.Errorf("a manifest: %s: %s", resp.Status, body)
	}
	resp, body := call(t, "GET", url+"/v2/app/blobs/"+digest, "")
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "try again") || resp.Header.Get("ETag") != "" {
		t.Errorf("a blob: %s, %v: %s", resp.Status, resp.Header, body)
	}
	if _, body := call(t, "GET", metrics, ""); !strings.Contains(body, `berth_bucket_requests_total{operation="get object",result="failed"}`) {
		t.Errorf("no failed request in\n%s", body)
	}
}

func TestReadOnly(t *testing.T) {
	bucket := service.S3(t)
	const content = "bytes"
	digest := oci.DigestBytes(oci.SHA256, []byte(content)).String()
	data := filepath.Join(t.TempDir(), "data")
	t.Run("write", func(t *testing.T) {
		url, _ := serveBucket(t, bucket, func(c *Config) { c.Data = data })
		if resp, body := call(t, "POST", url+"/v2/app/blobs/uploads/?digest="+digest, content); resp.StatusCode != http.StatusCreated {
			t.Fatal(resp.Status, body)
		}
	})
	readOnly := func(c *Config) { c.Data, c.ReadOnly = data, true }
	url, _ := serveBucket(t, bucket, readOnly)
	second, _ := serveBucket(t, bucket, readOnly) // they share the folder
	for _, method := range []string{"GET", "HEAD"} {
		if resp, _ := call(t, method, second+"/v2/app/blobs/"+digest, ""); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	for _, request := range []string{
		"POST /v2/app/blobs/uploads/", "PUT /v2/app/manifests/1", "DELETE /v2/app/manifests/1", "DELETE /v2/app/blobs/" + digest,
		"POST /v2/other/blobs/uploads/?mount=" + digest + "&from=app",
	} {
		method, path, _ := strings.Cut(request, " ")
		resp, body := call(t, method, url+path, "{}")
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "read-only") {
			t.Errorf("%s: %s: %s", request, resp.Status, body)
		}
	}
	cfg := Default()
	cfg.Listen, cfg.Data = "127.0.0.1:0", data
	if _, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "reading only") {
		t.Errorf("a server that writes beside those that read: %v", err)
	}
}

// What a node has counted is shown until another one must have counted anew.
func TestUnfinishedGrowsOld(t *testing.T) {
	b := service.S3(t)
	bucket, err := s3.Open(t.Context(), s3.Options{Bucket: b.Name, Endpoint: b.Endpoint, Region: b.Region, AccessKeyID: b.AccessKey, SecretAccessKey: b.SecretKey})
	if err != nil {
		t.Fatal(err)
	}
	defer bucket.Close()
	m, now := NewMetrics(), time.Now()
	run := observeUnfinished(m, bucket, func() time.Time { return now })
	shows := func(want string) {
		t.Helper()
		all, err := m.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.GetName() == "berth_bucket_unfinished_uploads" {
				if got := fmt.Sprint(f.GetMetric()[0].GetGauge().GetValue()); got != want {
					t.Errorf("the count is %s, want %s", got, want)
				}
				return
			}
		}
		t.Error("there is no such metric")
	}
	shows("NaN")
	if _, err := run(t.Context()); err != nil {
		t.Fatal(err)
	}
	shows("0")
	now = now.Add(3 * time.Hour) // another node has the job
	shows("NaN")
}
