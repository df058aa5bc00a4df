package registry_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/s3"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/test/service"
)

// A bucket that is away when an upload is to end does not cost what was acknowledged of it: the client asks again.
func TestFinishGoesOnAfterOutage(t *testing.T) {
	for name, lost := range map[string]bool{"before": false, "answer lost": true} {
		for size, first := range map[string]string{"small": "one,", "large": strings.Repeat("0123456789abcdef", 10<<20/16)} {
			t.Run(name+" "+size, func(t *testing.T) {
				var away atomic.Bool
				bucket := service.S3(t)
				to, err := url.Parse(bucket.Endpoint)
				if err != nil {
					t.Fatal(err)
				}
				forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }}
				proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if away.Load() {
						if lost && r.Method == http.MethodPost {
							forward.ServeHTTP(httptest.NewRecorder(), r)
						}
						panic(http.ErrAbortHandler)
					}
					forward.ServeHTTP(w, r)
				}))
				defer proxy.Close()
				store, err := s3.Open(t.Context(), s3.Options{
					Bucket: bucket.Name, Endpoint: proxy.URL, Region: bucket.Region, AccessKeyID: bucket.AccessKey, SecretAccessKey: bucket.SecretKey,
					Patience: time.Millisecond,
				})
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				w := newWorld(t)
				if w.Registry, err = registry.New(t.Context(), w.db, store, registry.Options{
					Sparse: func(oci.Repository) registry.Sparse { return registry.SparseIndex }, Grace: time.Hour, UploadExpiry: time.Hour,
				}); err != nil {
					t.Fatal(err)
				}
				s := w.begin()
				w.add(s, body(first), int64(len(first)))
				body := func() registry.Body {
					b := body("")
					if size == "small" {
						b = bodyAt(int64(len(first)), "two")
					}
					first := b.Reader
					b.Reader = readerFunc(func(p []byte) (int, error) {
						away.Store(true) // when the store has been asked for what it has
						return first.Read(p)
					})
					return b
				}
				all := first
				if size == "small" {
					all += "two"
				}
				if err := w.FinishUpload(t.Context(), s, digestOf(all), body()); !errors.Is(err, blob.ErrUnavailable) {
					t.Fatalf("the end of an upload while the bucket is away: %v", err)
				}
				away.Store(false)
				again := bodyAt(int64(len(first)), strings.TrimPrefix(all, first))
				if err := w.FinishUpload(t.Context(), s, digestOf(all), again); err != nil {
					t.Fatalf("the same end again: %v", err)
				}
				w.wantBlob("app", all)
			})
		}
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
