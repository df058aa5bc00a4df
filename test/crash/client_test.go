package crash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/harness"
)

// client does random things to a repository until the server is killed. What it was
// doing at that moment is left in pending.
type client struct {
	t       *testing.T
	api     *harness.API
	rng     *rand.Rand
	repo    *repository
	market  *market
	common  []content // that every client pushes
	pending *operation
	done    int // operations that were acknowledged
}

// operation is a change that is being asked for.
type operation struct {
	what     string
	apply    func()      // notes that it took effect
	happened func() bool // asks the server, after the crash, whether it did
}

// errDown: the server does not answer any more.
var errDown = errors.New("the server is down")

// errWrong: it answered what it must not; the test has been told.
var errWrong = errors.New("wrong answer")

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.step(ctx); err != nil {
			return
		}
	}
}

func (c *client) step(ctx context.Context) error {
	switch n := c.rng.IntN(20); {
	case n < 3:
		_, err := c.pushBlob(ctx)
		return err
	case n < 11:
		return c.pushImage(ctx)
	case n < 12:
		return c.pushAgain(ctx)
	case n < 13:
		return c.pushWrong(ctx)
	case n < 14:
		return c.mount(ctx)
	case n < 16:
		return c.leaveUpload(ctx)
	case n < 17:
		return c.cancelUpload(ctx)
	case n < 18:
		return c.deleteTag(ctx)
	case n < 19:
		return c.deleteManifest(ctx)
	default:
		return c.deleteBlob(ctx)
	}
}

// ask sends a request that changes nothing that anybody could see.
func (c *client) ask(ctx context.Context, want int, method, path string, body io.Reader, headers ...harness.Header) (*harness.Response, error) {
	resp, err := c.api.Try(ctx, method, path, body, headers...)
	if err != nil {
		return nil, errDown
	}
	if resp.StatusCode != want {
		c.t.Errorf("%s %s: status %d, expected %d: %.300s", method, path, resp.StatusCode, want, resp.Bytes)
		return nil, errWrong
	}
	return resp, nil
}

// change sends the request of an operation and notes its effect when it is acknowledged.
func (c *client) change(ctx context.Context, op operation, want int, method, path string, body io.Reader, headers ...harness.Header) (*harness.Response, error) {
	c.pending = &op
	resp, err := c.ask(ctx, want, method, path, body, headers...)
	if errors.Is(err, errDown) {
		return nil, err
	}
	c.pending = nil
	if err != nil {
		return nil, err
	}
	op.apply()
	c.done++
	return resp, nil
}

// get reads something from the restarted server.
func (c *client) get(path string) *harness.Response {
	c.t.Helper()
	return c.request("GET", path)
}

// request asks the restarted server, from any goroutine. No answer is an answer without a status.
func (c *client) request(method, path string) *harness.Response {
	c.t.Helper()
	resp, err := c.api.Try(c.t.Context(), method, path, nil)
	if err != nil {
		c.t.Errorf("%s %s: %v", method, path, err)
		return &harness.Response{Response: &http.Response{}}
	}
	return resp
}

// has asks whether something is there.
func (c *client) has(path string) bool {
	c.t.Helper()
	return c.digestOf(path) != ""
}

// digestOf asks for the digest of a blob or manifest, "" if there is none.
func (c *client) digestOf(path string) string {
	c.t.Helper()
	resp := c.request("HEAD", c.repo.path(path))
	switch resp.StatusCode {
	case http.StatusOK:
		return resp.Header.Get("Docker-Content-Digest")
	case http.StatusNotFound:
	default:
		c.t.Errorf("HEAD %s: status %d", path, resp.StatusCode)
	}
	return ""
}

// blobArrives is the operation of a blob's last request.
func (c *client) blobArrives(b content, u *upload) operation {
	return operation{
		what: fmt.Sprintf("blob %s of %d bytes", b.digest, b.size),
		apply: func() {
			c.repo.blobs[b.digest] = b
			c.market.put(c.repo.name, b)
			if u != nil {
				c.repo.forget(u)
			}
		},
		happened: func() bool { return c.has("blobs/" + b.digest.String()) },
	}
}

func (c *client) choose() content {
	if c.rng.IntN(5) == 0 {
		return c.common[c.rng.IntN(len(c.common))]
	}
	return newContent(c.rng)
}

// pushBlob uploads a blob in one of the ways there are.
func (c *client) pushBlob(ctx context.Context) (content, error) {
	b := c.choose()
	d := b.digest.String()
	if c.rng.IntN(4) == 0 {
		_, err := c.change(ctx, c.blobArrives(b, nil), http.StatusCreated, "POST", c.repo.path("blobs/uploads/?digest="+d), b.reader())
		return b, err
	}
	u, err := c.begin(ctx, b)
	if err != nil {
		return b, err
	}
	switch c.rng.IntN(4) {
	case 0: // streamed, then an empty PUT
		if err := c.append(ctx, u, b.size, true); err != nil {
			return b, err
		}
	case 1: // chunks, the last one with the PUT or without
		for u.sent < b.size && c.rng.IntN(4) > 0 {
			if err := c.append(ctx, u, min(b.size-u.sent, 1+c.rng.IntN(b.size)), false); err != nil {
				return b, err
			}
		}
	case 2: // of no known length
		_, err = c.change(ctx, c.blobArrives(b, u), http.StatusCreated, "PUT", harness.WithDigest(u.location, d), io.MultiReader(b.reader()))
		return b, err
	}
	_, err = c.finish(ctx, u)
	return b, err
}

func (c *client) begin(ctx context.Context, b content) (*upload, error) {
	path := c.repo.path("blobs/uploads/")
	if b.digest.Algorithm() == oci.SHA512 {
		path += "?digest-algorithm=sha512"
	}
	resp, err := c.ask(ctx, http.StatusAccepted, "POST", path, http.NoBody)
	if err != nil {
		return nil, err
	}
	u := &upload{content: b, location: resp.Path()}
	c.repo.uploads = append(c.repo.uploads, u)
	return u, nil
}

// append sends the next n bytes of a session.
func (c *client) append(ctx context.Context, u *upload, n int, stream bool) error {
	chunk := u.content.bytes()[u.sent : u.sent+n]
	headers := harness.Header{}
	if n > 0 && !stream {
		headers["Content-Range"] = fmt.Sprintf("%d-%d", u.sent, u.sent+n-1)
	}
	body := io.Reader(newReader(chunk))
	if stream {
		body = io.MultiReader(body)
	}
	u.flying = n
	resp, err := c.ask(ctx, http.StatusAccepted, "PATCH", u.location, body, headers)
	if err != nil {
		return err
	}
	u.sent, u.flying = u.sent+n, 0
	u.location = resp.Path()
	if got, want := resp.Header.Get("Range"), fmt.Sprintf("0-%d", max(u.sent-1, 0)); got != want {
		c.t.Errorf("Range after %d bytes is %q, expected %q", u.sent, got, want)
	}
	c.done++
	return nil
}

// finish closes a session with what is left of its content.
func (c *client) finish(ctx context.Context, u *upload) (*harness.Response, error) {
	rest := u.content.bytes()[u.sent:]
	headers := harness.Header{}
	if len(rest) > 0 {
		headers["Content-Range"] = fmt.Sprintf("%d-%d", u.sent, u.content.size-1)
	}
	u.flying = len(rest)
	return c.change(ctx, c.blobArrives(u.content, u), http.StatusCreated, "PUT",
		harness.WithDigest(u.location, u.content.digest.String()), newReader(rest), headers)
}

// pushWrong sends bytes that are not what their digest says.
func (c *client) pushWrong(ctx context.Context) error {
	b := newContent(c.rng)
	if b.size == 0 {
		return nil
	}
	c.neverComes(b)
	body := b.bytes()
	body[c.rng.IntN(len(body))] ^= 1
	_, err := c.ask(ctx, http.StatusBadRequest, "POST", c.repo.path("blobs/uploads/?digest="+b.digest.String()), newReader(body))
	return err
}

// mount takes a blob from another client's repository, if that still has it.
func (c *client) mount(ctx context.Context) error {
	o, ok := c.market.any(c.repo.name)
	if !ok {
		return nil
	}
	op := c.blobArrives(o.content, nil)
	c.pending = &op
	resp, err := c.api.Try(ctx, "POST", c.repo.path("blobs/uploads/?mount="+o.content.digest.String()+"&from="+o.repository), http.NoBody)
	if err != nil {
		return errDown
	}
	c.pending = nil
	switch resp.StatusCode {
	case http.StatusCreated:
		op.apply()
		c.done++
	case http.StatusAccepted: // deleted there meanwhile
	default:
		c.t.Errorf("mount: status %d: %.300s", resp.StatusCode, resp.Bytes)
		return errWrong
	}
	return nil
}

// leaveUpload begins a session and sends only a part.
func (c *client) leaveUpload(ctx context.Context) error {
	if len(c.repo.uploads) >= 3 {
		u := c.repo.uploads[0]
		_, err := c.finish(ctx, u)
		return err
	}
	b := newContent(c.rng)
	if b.size < 10 {
		return nil
	}
	u, err := c.begin(ctx, b)
	if err != nil {
		return err
	}
	return c.append(ctx, u, b.size/2, c.rng.IntN(2) == 0)
}

func (c *client) cancelUpload(ctx context.Context) error {
	if len(c.repo.uploads) == 0 {
		return nil
	}
	u := c.repo.uploads[c.rng.IntN(len(c.repo.uploads))]
	op := operation{
		what:     "cancel of an upload",
		apply:    func() { c.repo.forget(u); c.neverComes(u.content) },
		happened: func() bool { return c.get(u.location).StatusCode == http.StatusNotFound },
	}
	_, err := c.change(ctx, op, http.StatusNoContent, "DELETE", u.location, nil)
	return err
}

// neverComes notes that content must not be there, unless others push it, too: what is common, and
// what is so small that two make the same up.
func (c *client) neverComes(b content) {
	if b.size >= 16 && !slices.Contains(c.common, b) {
		c.repo.never = append(c.repo.never, b.digest)
	}
}

// some returns a random key of a map, in a way that depends on the seed only.
func some[V any](rng *rand.Rand, m map[oci.Digest]V) (d oci.Digest, ok bool) {
	if len(m) == 0 {
		return oci.Digest{}, false
	}
	keys := slices.SortedFunc(maps.Keys(m), func(a, b oci.Digest) int {
		if a.String() < b.String() {
			return -1
		}
		return 1
	})
	return keys[rng.IntN(len(keys))], true
}
