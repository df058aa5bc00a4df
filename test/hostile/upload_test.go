package hostile

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

func octets(b []byte) harness.Blob { return harness.NewBlob("application/octet-stream", b) }

// wantRange fails the test unless the session has size bytes.
func wantRange(t testing.TB, api *harness.API, location string, size int) {
	t.Helper()
	resp := api.Expect(http.StatusNoContent, "GET", location, nil)
	if got, want := resp.Header.Get("Range"), fmt.Sprintf("0-%d", max(size-1, 0)); got != want {
		t.Errorf("the session has the range %q, expected %q", got, want)
	}
}

// Bytes that are not what their digest says never become a blob.
func TestWrongDigest(t *testing.T) {
	api := sharedAPI(t)
	right, wrong := octets([]byte("right")), octets([]byte("wrong"))
	start := func() string { return api.StartUpload("wrong/digest") }
	put := func(location string, d harness.Blob, b string) *harness.Response {
		return api.Do("PUT", harness.WithDigest(location, d.Digest.String()), []byte(b))
	}
	wantFailure(t, api.Do("POST", "/v2/wrong/digest/blobs/uploads/?digest="+right.Digest.String(), wrong.Bytes), 400, "DIGEST_INVALID")
	wantFailure(t, put(start(), right, "wrong"), 400, "DIGEST_INVALID")
	wantFailure(t, put(start(), right, ""), 400, "DIGEST_INVALID")
	location := start()
	api.Expect(202, "PATCH", location, []byte("wro"))
	wantFailure(t, put(location, right, "ng"), 400, "DIGEST_INVALID")
	location = start()
	wantFailure(t, api.Do("PUT", location, right.Bytes), 400, "DIGEST_INVALID") // with no digest
	for _, d := range []string{"", "x", "sha256:", "md5:9a0364b9e99bb480dd25e1f0284c8555", strings.ToUpper(right.Digest.String())} {
		wantFailure(t, api.Do("PUT", harness.WithDigest(location, d), right.Bytes), 400, "DIGEST_INVALID")
	}
	for _, b := range []harness.Blob{right, wrong} {
		api.Expect(404, "HEAD", "/v2/wrong/digest/blobs/"+b.Digest.String(), nil)
	}
	api.Check(put(location, right, "right"), 201) // nothing of it has ended the session
}

// A body that is shorter or longer than it says is not taken for whole.
func TestWrongLength(t *testing.T) {
	s := shared.Get(t)
	api := sharedAPI(t)
	b := octets([]byte("0123456789"))
	request := func(method, path, headers, body string) string {
		return method + " " + path + " HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n\r\n" + body
	}
	halfClosed := func(text string) {
		t.Helper()
		c := dial(t, s)
		io.WriteString(c, text)
		c.(interface{ CloseWrite() error }).CloseWrite()
		if resp, err := io.ReadAll(c); err == nil && len(resp) > 0 && !bytes.HasPrefix(resp, []byte("HTTP/1.1 400")) {
			t.Errorf("%.60q: %.200q", text, resp)
		}
	}
	post := "/v2/wrong/length/blobs/uploads/?digest=" + b.Digest.String()
	halfClosed(request("POST", post, "Content-Length: 20", "0123456789"))
	halfClosed(request("POST", post, "Transfer-Encoding: chunked", "a\r\n0123456789\r\n")) // no last chunk
	halfClosed(request("POST", post, "Transfer-Encoding: chunked", "5\r\n01234\r\nzz\r\n"))
	api.Expect(404, "HEAD", "/v2/wrong/length/blobs/"+b.Digest.String(), nil)

	// What came of a session is kept, and the client goes on.
	location := api.StartUpload("wrong/length")
	halfClosed(request("PATCH", location, "Content-Length: 20", "01234"))
	if !eventually(func() bool { return api.Expect(204, "GET", location, nil).Header.Get("Range") == "0-4" }) {
		t.Error("the bytes before the line broke are not kept")
	}
	halfClosed(request("PUT", harness.WithDigest(location, b.Digest.String()), "Content-Length: 5", "567"))
	if !eventually(func() bool { return api.Expect(204, "GET", location, nil).Header.Get("Range") == "0-7" }) {
		t.Error("the bytes of a broken PUT are not kept")
	}
	// Content-Range and Content-Length contradict each other.
	wantFailure(t, api.Do("PATCH", location, []byte("89"), harness.Header{"Content-Range": "8-20"}), 400, "SIZE_INVALID")
	wantRange(t, api, location, 8)
	// So do Content-Range and a body whose length is not announced: no more is taken than was named.
	stream := func(text, contentRange string) *harness.Response {
		return api.Stream("PATCH", location, io.MultiReader(strings.NewReader(text)), harness.Header{"Content-Range": contentRange})
	}
	wantFailure(t, stream("", "8-8"), 400, "SIZE_INVALID")
	wantRange(t, api, location, 8)
	wantFailure(t, stream("8xyz", "8-8"), 400, "SIZE_INVALID")
	wantRange(t, api, location, 9)
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), []byte("9"), harness.Header{"Content-Range": "9-9"})
	if got := api.Expect(200, "GET", "/v2/wrong/length/blobs/"+b.Digest.String(), nil).Bytes; !bytes.Equal(got, b.Bytes) {
		t.Errorf("the blob is %q", got)
	}
}

// Chunks that do not follow are 416 with what the client needs to go on, in a PATCH and in
// the closing PUT.
func TestChunkOutOfOrder(t *testing.T) {
	api := sharedAPI(t)
	b := octets([]byte("0123456789"))
	end := func(location string) string { return harness.WithDigest(location, b.Digest.String()) }
	location := api.StartUpload("order/app")
	outOfOrder := func(method, path, contentRange, body string, size int) {
		t.Helper()
		resp := api.Do(method, path, []byte(body), harness.Header{"Content-Range": contentRange})
		wantFailure(t, resp, http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID")
		if got, want := resp.Header.Get("Range"), fmt.Sprintf("0-%d", max(size-1, 0)); got != want || resp.Path() == "" {
			t.Errorf("416 has the Range %q and the Location %q", got, resp.Path())
		}
		wantRange(t, api, location, size)
	}
	outOfOrder("PATCH", location, "5-9", "56789", 0)
	outOfOrder("PUT", end(location), "5-9", "56789", 0)
	api.Expect(202, "PATCH", location, []byte("01234"), harness.Header{"Content-Range": "0-4"})
	outOfOrder("PATCH", location, "0-4", "01234", 5)
	outOfOrder("PATCH", location, "4-8", "45678", 5)
	outOfOrder("PATCH", location, "6-9", "6789", 5)
	outOfOrder("PUT", end(location), "6-9", "6789", 5)
	outOfOrder("PUT", end(location), "0-9", "0123456789", 5)
	outOfOrder("PUT", end(location), "9223372036854775802-9223372036854775806", "56789", 5)
	for _, malformed := range []string{"x", "5", "5-", "-9", "9-5", "bytes 5-9/10", "bytes=5-9", "5-99999999999999999999", "5-9,5-9", strings.Repeat("5", 10_000)} {
		for method, path := range map[string]string{"PATCH": location, "PUT": end(location)} {
			wantFailure(t, api.Do(method, path, []byte("56789"), harness.Header{"Content-Range": malformed}), 400, "BLOB_UPLOAD_INVALID")
		}
	}
	wantRange(t, api, location, 5)
	api.Expect(201, "PUT", end(location), []byte("56789"), harness.Header{"Content-Range": "5-9"})
}

// A session belongs to its repository and to this registry, and ends once.
func TestForeignSessions(t *testing.T) {
	api := sharedAPI(t)
	b := octets(harness.Random(100))
	location := api.StartUpload("session/mine")
	api.Expect(202, "PATCH", location, b.Bytes[:50])
	u, err := url.Parse(location)
	if err != nil {
		t.Fatal(err)
	}
	state := u.Query().Get("_state")
	for _, path := range []string{
		strings.Replace(location, "session/mine", "session/other", 1),
		strings.Replace(location, "session/mine", "session", 1),
		u.Path,
		u.Path + "?_state=",
		u.Path + "?_state=" + state + "A",
		u.Path + "?_state=" + state[:len(state)-2],
		u.Path + "?_state=" + strings.Repeat("A", len(state)),
		u.Path + "?_state=" + strings.Repeat("A", 100_00),
		u.Path + "?_state=%00",
		u.Path + "x?_state=" + state,
		"/v2/session/mine/blobs/uploads/00000000-0000-4000-8000-000000000000?_state=" + state,
		"/v2/session/mine/blobs/uploads/..?_state=" + state,
		"/v2/session/mine/blobs/uploads/" + strings.Repeat("a", 5000) + "?_state=" + state,
	} {
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			wantFailure(t, api.Do(method, path, nil), 404, "BLOB_UPLOAD_UNKNOWN")
		}
		sep := "&"
		if !strings.Contains(path, "?") {
			sep = "?"
		}
		wantFailure(t, api.Do("PUT", path+sep+"digest="+b.Digest.String(), b.Bytes[50:]), 404, "BLOB_UPLOAD_UNKNOWN")
	}
	api.Expect(404, "HEAD", "/v2/session/other/blobs/"+b.Digest.String(), nil)
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes[50:])

	// Replayed as it was, the end is answered as it was; the session is gone.
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), nil)
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes[50:])
	other := octets(b.Bytes[50:])
	wantFailure(t, api.Do("PUT", harness.WithDigest(location, other.Digest.String()), other.Bytes), 404, "BLOB_UPLOAD_UNKNOWN")
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		wantFailure(t, api.Do(method, location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	}
	if got := api.Expect(200, "GET", "/v2/session/mine/blobs/"+b.Digest.String(), nil).Bytes; !bytes.Equal(got, b.Bytes) {
		t.Error("a replay has changed the blob")
	}

	// A cancelled one is gone.
	location = api.StartUpload("session/mine")
	api.Expect(202, "PATCH", location, b.Bytes)
	api.Expect(204, "DELETE", location, nil)
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		wantFailure(t, api.Do(method, location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	}
	wantFailure(t, api.Do("PUT", harness.WithDigest(location, b.Digest.String()), nil), 404, "BLOB_UPLOAD_UNKNOWN")
}

// A second connection for a session that is being sent takes over: the first one's client has lost it,
// and the server has not noticed. Over both protocols.
func TestTakeOver(t *testing.T) {
	for name, api := range map[string]*harness.API{"HTTP/1.1": sharedAPI(t), "h2c": sharedAPI(t).OverH2C()} {
		t.Run(name, func(t *testing.T) {
			b := octets(harness.Random(200_000))
			location := api.StartUpload("takeover/app")
			body, pipe := io.Pipe()
			first := make(chan string, 1)
			go func() {
				resp, err := api.Try(t.Context(), "PATCH", location, body)
				if err != nil {
					first <- err.Error()
					return
				}
				first <- strconv.Itoa(resp.StatusCode)
			}()
			pipe.Write(b.Bytes[:100_000]) // and then nothing comes
			if !eventually(func() bool { return begun(t, b.Bytes) }) {
				t.Fatal("the upload does not begin")
			}
			var size int
			resp := api.Expect(202, "PATCH", location, []byte{})
			fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &size)
			if size++; size < 10_000 || size > 100_000 {
				t.Fatalf("the session has %d bytes, 100000 were sent", size)
			}
			pipe.CloseWithError(io.ErrClosedPipe)
			if got := <-first; got == "202" || got == "201" {
				t.Errorf("the first client was answered with %s", got)
			}
			api.Expect(202, "PATCH", location, b.Bytes[size:150_000], harness.Header{"Content-Range": fmt.Sprintf("%d-149999", size)})
			api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), b.Bytes[150_000:])
		})
	}
}

// begun tells whether an object of the shared server has a part of the bytes.
func begun(t *testing.T, b []byte) bool {
	t.Helper()
	for _, path := range objects(t, shared.Get(t).Dir) {
		if part, err := os.ReadFile(path); err == nil && len(part) > 0 && bytes.HasPrefix(b, part) {
			return true
		}
	}
	return false
}

// Many at once send to one session: every acknowledged byte is there once.
func TestSessionCrowd(t *testing.T) {
	api := sharedAPI(t)
	location := api.StartUpload("crowd/app")
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 0
	content := harness.Random(40 * 500)
	for range 8 {
		wg.Go(func() {
			for {
				mu.Lock()
				at := next
				mu.Unlock()
				if at >= len(content) {
					return
				}
				end := min(at+500, len(content))
				resp, err := api.Try(t.Context(), "PATCH", location, bytes.NewReader(content[at:end]),
					harness.Header{"Content-Range": fmt.Sprintf("%d-%d", at, end-1)})
				if err != nil {
					continue // interrupted
				}
				var last int
				fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &last)
				if resp.StatusCode == 202 || resp.StatusCode == 416 {
					mu.Lock()
					if last > 0 {
						next = max(next, last+1)
					}
					mu.Unlock()
				} else if resp.StatusCode != 408 { // interrupted
					t.Errorf("status %d: %s", resp.StatusCode, resp.Bytes)
					return
				}
			}
		})
	}
	wg.Wait()
	b := octets(content)
	api.Expect(201, "PUT", harness.WithDigest(location, b.Digest.String()), nil)
}
