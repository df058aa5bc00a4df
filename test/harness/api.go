package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// API speaks the registry's protocol with plain net/http.
type API struct {
	T      testing.TB
	Base   string // scheme://host:port
	Client *http.Client
}

// NewAPI returns an API for the server.
func NewAPI(t testing.TB, s *Server) *API {
	return &API{T: t, Base: s.URL, Client: plainHTTP()}
}

// OverH2C returns an API that speaks HTTP/2 without TLS.
func (a *API) OverH2C() *API {
	client := plainHTTP()
	tr := client.Transport.(*http.Transport)
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetUnencryptedHTTP2(true)
	return &API{T: a.T, Base: a.Base, Client: client}
}

// Header is a header given as names and values, one value each.
type Header map[string]string

// Response is an answer that was read to its end.
type Response struct {
	*http.Response
	Bytes []byte
}

// Code returns the code of the first error in the specification's form, or "".
func (r *Response) Code() string {
	var body struct {
		Errors []struct {
			Code string `json:"code"`
		} `json:"errors"`
	}
	if json.Unmarshal(r.Bytes, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

// Path resolves the answer's Location against its request and returns path and
// query.
func (r *Response) Path() string {
	u, err := r.Location()
	if err != nil {
		return ""
	}
	return u.RequestURI()
}

// Do sends a request with the body, nil for none, and reads the answer.
func (a *API) Do(method, path string, body []byte, headers ...Header) *Response {
	a.T.Helper()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	return a.Stream(method, path, r, headers...)
}

// Stream is Do with a body that is read as it is sent. The length is unknown
// unless r is a *bytes.Reader or *strings.Reader.
func (a *API) Stream(method, path string, r io.Reader, headers ...Header) *Response {
	a.T.Helper()
	resp, err := a.Try(a.T.Context(), method, path, r, headers...)
	if err != nil {
		a.T.Fatal(err)
	}
	return resp
}

// Try is Stream for requests that may fail on the way.
func (a *API) Try(ctx context.Context, method, path string, r io.Reader, headers ...Header) (*Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.Base+path, r)
	if err != nil {
		return nil, err
	}
	for _, h := range headers {
		for name, value := range h {
			if name == "Host" {
				req.Host = value
			}
			req.Header.Set(name, value)
		}
	}
	resp, err := a.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return &Response{resp, b}, fmt.Errorf("%s %s: body of the answer: %w", method, path, err)
	}
	return &Response{resp, b}, nil
}

// Expect is Do and fails the test unless the status is the given one.
func (a *API) Expect(status int, method, path string, body []byte, headers ...Header) *Response {
	a.T.Helper()
	resp := a.Do(method, path, body, headers...)
	a.Check(resp, status)
	return resp
}

// Check fails the test unless the answer has the status.
func (a *API) Check(resp *Response, status int) {
	a.T.Helper()
	if resp.StatusCode != status {
		a.T.Fatalf("%s %s: status %d, expected %d\n%v\n%.2000s", resp.Request.Method, resp.Request.URL, resp.StatusCode, status, resp.Header, resp.Bytes)
	}
}

// StartUpload begins an upload and returns path and query of its session.
func (a *API) StartUpload(repo string) string {
	a.T.Helper()
	return a.Expect(http.StatusAccepted, "POST", "/v2/"+repo+"/blobs/uploads/", []byte{}).Path()
}

// WithDigest adds the digest parameter to the location of an upload.
func WithDigest(location, digest string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + "digest=" + url.QueryEscape(digest)
}

// PushBlob uploads the blob with POST and PUT.
func (a *API) PushBlob(repo string, b Blob) *Response {
	a.T.Helper()
	location := a.StartUpload(repo)
	return a.Expect(http.StatusCreated, "PUT", WithDigest(location, b.Digest.String()), b.Bytes, Header{"Content-Type": "application/octet-stream"})
}

// PushManifest uploads a manifest under a tag or, if reference is empty, its digest.
func (a *API) PushManifest(repo, reference string, m Blob) *Response {
	a.T.Helper()
	if reference == "" {
		reference = m.Digest.String()
	}
	return a.Expect(http.StatusCreated, "PUT", "/v2/"+repo+"/manifests/"+reference, m.Bytes, Header{"Content-Type": m.MediaType})
}

// PushImage uploads the blobs and then the manifest, under a tag or, if reference is
// empty, its digest.
func (a *API) PushImage(repo, reference string, image Image) *Response {
	a.T.Helper()
	for _, b := range image.Blobs {
		a.PushBlob(repo, b)
	}
	return a.PushManifest(repo, reference, image.Manifest)
}

// Tags returns the tags of a repository.
func (a *API) Tags(repo string) []string {
	a.T.Helper()
	resp := a.Expect(http.StatusOK, "GET", "/v2/"+repo+"/tags/list", nil)
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(resp.Bytes, &list); err != nil {
		a.T.Fatalf("tags of %s: %v in %s", repo, err, resp.Bytes)
	}
	return list.Tags
}
