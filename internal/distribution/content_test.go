package distribution

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

const letters = "abcdefghijklmnopqrstuvwxyz0123456789"

// serveLetters answers a request for the letters with serveContent.
func serveLetters(method string, header http.Header) *http.Response {
	d := oci.DigestBytes(oci.SHA256, []byte(letters))
	h := web.NewServer(web.Options{Log: slog.New(slog.DiscardHandler)}).Handler(func(w *web.Response, r *http.Request) error {
		return serveContent(w, r, d, "text/plain", int64(len(letters)), func() (io.ReadSeeker, io.Closer, error) {
			return strings.NewReader(letters), io.NopCloser(nil), nil
		})
	})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "/", nil)
	r.Header = header
	h.ServeHTTP(w, r)
	return w.Result()
}

var contentRange = regexp.MustCompile(`^bytes (\d+)-(\d+)/36$`)

// part returns what a Content-Range header says that a body should be.
func part(h string) (string, error) {
	m := contentRange.FindStringSubmatch(h)
	if m == nil {
		return "", fmt.Errorf("Content-Range is %q", h)
	}
	a, _ := strconv.Atoi(m[1])
	b, _ := strconv.Atoi(m[2])
	if a > b || b >= len(letters) {
		return "", fmt.Errorf("Content-Range is %q", h)
	}
	return letters[a : b+1], nil
}

// parts returns the parts of an answer, and an error if they are not what they say.
func parts(resp *http.Response) ([]string, error) {
	if resp.Header.Get("Docker-Content-Digest") == "" && resp.StatusCode < 300 {
		return nil, errors.New("no digest")
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if n := resp.Header.Get("Content-Length"); n != "" && n != strconv.Itoa(len(body)) && resp.StatusCode != http.StatusNotModified {
		return nil, fmt.Errorf("%d bytes, Content-Length %s", len(body), n)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		if string(body) != letters || resp.Header.Get("Content-Range") != "" || resp.Header.Get("Content-Type") != "text/plain" {
			return nil, fmt.Errorf("not the whole: %q", body)
		}
		return []string{letters}, nil
	case http.StatusRequestedRangeNotSatisfiable:
		if h := resp.Header.Get("Content-Range"); h != "" && h != "bytes */36" || !bytes.HasPrefix(body, []byte(`{"errors":[`)) {
			return nil, fmt.Errorf("Content-Range is %q, body %q", h, body)
		}
		return nil, nil
	case http.StatusPartialContent:
	default:
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	mediaType, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/byteranges" {
		want, err := part(resp.Header.Get("Content-Range"))
		if err == nil && string(body) != want {
			err = fmt.Errorf("%s is %q", resp.Header.Get("Content-Range"), body)
		}
		return []string{want}, err
	}
	var found []string
	r := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		p, err := r.NextPart()
		if err == io.EOF {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		got, err := io.ReadAll(p)
		if err != nil {
			return nil, err
		}
		want, err := part(p.Header.Get("Content-Range"))
		if err != nil || string(got) != want {
			return nil, fmt.Errorf("%s is %q: %w", p.Header.Get("Content-Range"), got, err)
		}
		found = append(found, want)
	}
}

func TestRanges(t *testing.T) {
	for header, want := range map[string][]string{
		"bytes=0-0":                   {"a"},
		"bytes=0-":                    {letters},
		"bytes=30-":                   {"456789"},
		"bytes=30-35":                 {"456789"},
		"bytes=30-1000":               {"456789"},
		"bytes=-3":                    {"789"},
		"bytes=-1000":                 {letters},
		"bytes=1-2,4-5":               {"bc", "ef"},
		"bytes=1-2, 30-, -2":          {"bc", "456789", "89"},
		"bytes=4-5,1-2":               {"ef", "bc"},
		"bytes=-0":                    {letters},
		"bytes=1-2, -00":              {letters},
		"bytes=36-":                   nil,
		"bytes=99-100":                nil,
		"bytes=5-4":                   nil,
		"bytes=a-b":                   nil,
		"bytes=1-2,99-100":            {"bc"},
		"bytes=0-35,0-35,0-35":        {letters}, // more than there is: the whole
		"":                            {letters},
		"bytes=18446744073709551616-": nil,
	} {
		resp := serveLetters("GET", http.Header{"Range": {header}})
		got, err := parts(resp)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: status %d, %q, %v, expected %q", header, resp.StatusCode, got, err, want)
		}
	}
}

// Whatever Range says, the bytes are those of the content that the answer names.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"bytes=0-0", "bytes=1-2,4-5", "bytes=-3", "bytes=5-", "bytes=9-1", "items=0-1", "bytes=0-0,0-0,,", "bytes= 1 - 2"} {
		f.Add(s, "GET", "")
	}
	f.Add("bytes=0-0", "HEAD", `"x"`)
	simple := regexp.MustCompile(`^bytes=(\d{1,9})-(\d{1,9})$`)
	f.Fuzz(func(t *testing.T, value, method, ifRange string) {
		if method != "HEAD" {
			method = "GET"
		}
		header := http.Header{"Range": {value}}
		if ifRange != "" {
			header["If-Range"] = []string{ifRange}
		}
		resp := serveLetters(method, header)
		if method == "HEAD" {
			if resp.StatusCode != 200 && resp.StatusCode != 206 && resp.StatusCode != 416 {
				t.Errorf("HEAD %q: status %d", value, resp.StatusCode)
			}
			return
		}
		got, err := parts(resp)
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		if m := simple.FindStringSubmatch(value); m != nil && ifRange == "" {
			a, _ := strconv.Atoi(m[1])
			b, _ := strconv.Atoi(m[2])
			var want []string
			if a <= b && a < len(letters) {
				want = []string{letters[a:min(b+1, len(letters))]}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%q gives %q, expected %q", value, got, want)
			}
		}
	})
}

// Conditional requests, RFC 9110 section 13.
func TestConditions(t *testing.T) {
	etag := `"` + oci.DigestBytes(oci.SHA256, []byte(letters)).String() + `"`
	for _, test := range []struct {
		header http.Header
		status int
	}{
		{http.Header{"If-None-Match": {etag}}, 304},
		{http.Header{"If-None-Match": {"*"}}, 304},
		{http.Header{"If-None-Match": {`W/` + etag}}, 304},
		{http.Header{"If-None-Match": {`"x", ` + etag}}, 304},
		{http.Header{"If-None-Match": {`"x"`}}, 200},
		{http.Header{"If-None-Match": {"nonsense"}}, 200},
		{http.Header{"If-Match": {etag}}, 200},
		{http.Header{"If-Match": {"*"}}, 200},
		{http.Header{"If-Match": {`"x"`}}, 412},
		{http.Header{"If-Match": {etag}, "Range": {"bytes=0-1"}}, 206},
		{http.Header{"If-None-Match": {etag}, "Range": {"bytes=0-1"}}, 304},
		{http.Header{"If-Range": {etag}, "Range": {"bytes=0-1"}}, 206},
		{http.Header{"If-Range": {`"x"`}, "Range": {"bytes=0-1"}}, 200},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			resp := serveLetters(method, test.header.Clone())
			if resp.StatusCode != test.status || test.status < 400 && resp.Header.Get("Etag") != etag {
				t.Errorf("%s %v: status %d, ETag %s, expected %d", method, test.header, resp.StatusCode, resp.Header.Get("Etag"), test.status)
			}
			if body, _ := io.ReadAll(resp.Body); test.status == 304 && len(body) > 0 || test.status == 412 && !bytes.HasPrefix(body, []byte(`{"errors":[`)) {
				t.Errorf("%s %v: status %d has the body %q", method, test.header, test.status, body)
			}
		}
	}
}

// Content that ends too soon does not look whole.
func TestShortContent(t *testing.T) {
	d := oci.DigestBytes(oci.SHA256, []byte(letters))
	s := httptest.NewServer(web.NewServer(web.Options{Log: slog.New(slog.DiscardHandler)}).Handler(func(w *web.Response, r *http.Request) error {
		return serveContent(w, r, d, "text/plain", int64(len(letters)), func() (io.ReadSeeker, io.Closer, error) {
			return strings.NewReader(letters[:10]), io.NopCloser(nil), nil
		})
	}))
	defer s.Close()
	resp, err := http.Get(s.URL)
	if err != nil {
		return // cut before anything was sent
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer looks whole: status %d, %q", resp.StatusCode, got)
	}
}

// What is fetched for a range is what http.ServeContent asks for first.
func TestFirstRange(t *testing.T) {
	for header, want := range map[string][2]int64{
		"":                            {0, 100},
		"bytes=10-19":                 {10, 10},
		"bytes=0-0":                   {0, 1},
		"bytes=99-":                   {99, 1},
		"bytes=40-":                   {40, 60},
		"bytes=90-200":                {90, 10},
		"bytes=100-":                  {0, 100},
		"bytes=20-10":                 {0, 100},
		"bytes=-10":                   {0, 100},
		"bytes=1-2,5-6":               {0, 100},
		"bytes=--1":                   {0, 100},
		"items=1-2":                   {0, 100},
		"bytes=1":                     {0, 100},
		"bytes=a-b":                   {0, 100},
		"bytes=-5-7":                  {0, 100},
		"bytes=3-9223372036854775807": {3, 97},
	} {
		if offset, n := firstRange(header, 100); offset != want[0] || n != want[1] {
			t.Errorf("%q: %d bytes from %d on, want %d from %d on", header, n, offset, want[1], want[0])
		}
	}
}
