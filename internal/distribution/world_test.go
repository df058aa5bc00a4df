package distribution

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// world is the protocol on a real registry behind a real socket.
type world struct {
	testing.TB
	url     string
	handler http.Handler
	db      *meta.DB
}

func newWorld(t testing.TB, opts Options) *world {
	t.Helper()
	return newWorldWith(t, opts, func(*meta.DB, *Options) {})
}

// newWorldWith has options that need the database.
func newWorldWith(t testing.TB, opts Options, more func(*meta.DB, *Options)) *world {
	t.Helper()
	dir := t.TempDir()
	store, err := fs.Open(filepath.Join(dir, "blobs"), fs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	db, err := meta.Open(t.Context(), filepath.Join(dir, "berth.db"), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	reg, err := registry.New(t.Context(), db, store, registry.Options{
		Sparse: func(r oci.Repository) registry.Sparse {
			if r == "sparse" {
				return registry.SparseAll
			}
			return registry.SparseIndex
		},
		Delete: true, Grace: time.Hour, UploadExpiry: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := web.NewServer(web.Options{Log: slog.New(slog.DiscardHandler), Idle: time.Minute})
	opts.Client = server.Client
	more(db, &opts)
	if opts.MaxManifest == 0 {
		opts.MaxManifest = 4 << 20
	}
	if opts.MaxUploads == 0 {
		opts.MaxUploads = 10
	}
	handler := server.Handler(New(reg, opts).Serve)
	s := httptest.NewServer(handler)
	t.Cleanup(func() {
		s.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{t, s.URL, handler, db}
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request; headers are pairs of name and value.
func (w *world) do(method, path, body string, headers ...string) answer {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		w.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	if resp.Header.Get("Docker-Distribution-Api-Version") != "registry/2.0" {
		w.Errorf("%s %s: no Docker-Distribution-Api-Version", method, path)
	}
	return answer{resp, b}
}

// want sends a request and fails the test unless the answer has the status.
func (w *world) want(status int, method, path, body string, headers ...string) answer {
	w.Helper()
	a := w.do(method, path, body, headers...)
	if a.StatusCode != status {
		w.Fatalf("%s %s: status %d, expected %d: %v %s", method, path, a.StatusCode, status, a.Header, a.body)
	}
	if status >= 400 && method != "HEAD" {
		w.code(a)
	}
	return a
}

// code returns the code of an error, which must have the form of spec.md#error-codes.
func (w *world) code(a answer) string {
	w.Helper()
	var form struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &form); err != nil || len(form.Errors) != 1 || form.Errors[0].Code == "" || form.Errors[0].Message == "" {
		w.Fatalf("status %d has another form: %s", a.StatusCode, a.body)
	}
	return form.Errors[0].Code
}

func (w *world) pushBlob(repo, b string) string {
	w.Helper()
	d := digest(b)
	w.want(http.StatusCreated, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d, b)
	return d
}

// image returns a manifest with a config of two bytes and these fields more.
func image(more map[string]any, layers ...string) string {
	list := []any{}
	for _, l := range layers {
		list = append(list, map[string]any{"mediaType": "application/octet-stream", "digest": l, "size": 1})
	}
	m := map[string]any{
		"schemaVersion": 2, "mediaType": oci.MediaTypeImage, "layers": list,
		"config": map[string]any{"mediaType": "application/vnd.test", "digest": digest("{}"), "size": 2},
	}
	for k, v := range more {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// pushImage pushes an image and returns its digest.
func (w *world) pushImage(repo, reference string, more map[string]any) string {
	w.Helper()
	w.pushBlob(repo, "{}")
	m := image(more)
	if reference == "" {
		reference = digest(m)
	}
	w.want(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/"+reference, m)
	return digest(m)
}

func digest(b string) string { return oci.DigestBytes(oci.SHA256, []byte(b)).String() }

// decode reads JSON.
func decode[T any](t testing.TB, a answer) (v T) {
	t.Helper()
	if err := json.Unmarshal(a.body, &v); err != nil {
		t.Fatal(errors.Join(err, errors.New(string(a.body))))
	}
	return v
}
