package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berthregistry/berth/internal/egress"
)

// do sends one request of the session. body may be nil; length is its count of bytes.
func (s *uploadSession) do(ctx context.Context, method string, u *url.URL, header http.Header, body io.Reader, length int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if body != nil {
		req.ContentLength = length
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	return s.repo.client.http.Do(req)
}

// moved takes over where the session continues. It stays at the registry, so that
// neither credentials nor content go elsewhere; a proxy before the
// registry that hides its scheme or default port is put up with.
func (s *uploadSession) moved(resp *http.Response) error {
	location := resp.Header.Get("Location")
	if location == "" {
		if s.location != nil {
			return nil
		}
		return &finalError{errors.New("the registry opened an upload but did not say where (no Location)")}
	}
	u, err := resp.Request.URL.Parse(location)
	if err != nil {
		return &finalError{fmt.Errorf("the registry opened an upload at %q, which is not a URL", Printable(location))}
	}
	base, err := url.Parse(s.repo.client.base)
	if err != nil {
		return err
	}
	if egress.HostPort(u) != egress.HostPort(base) && !(u.Hostname() == base.Hostname() && u.Port() == "") {
		return &finalError{fmt.Errorf("the registry opened an upload at another host, %s: nothing is sent there", u.Host)}
	}
	u.Scheme, u.Host = base.Scheme, base.Host
	s.location = u
	return nil
}

// cancel ends the session, as far as that can be done, and forgets it.
func (s *uploadSession) cancel(ctx context.Context) {
	if s.location == nil {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if resp, err := s.do(ctx, http.MethodDelete, s.location, nil, nil, 0); err == nil {
		resp.Body.Close()
	}
	s.location = nil
}

// parseUploadRange returns how many bytes the Range header of a session says that the
// registry has. "0-0" is what registries answer for none; a single byte, for
// which it would stand as well, is sent again.
func parseUploadRange(s string) (have int64, ok bool) {
	first, last, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	if !ok || first != "0" {
		return 0, false
	}
	n, err := strconv.ParseInt(last, 10, 64)
	if err != nil || n < -1 {
		return 0, false
	}
	if n <= 0 {
		return 0, true
	}
	return n + 1, true
}

// uploadBody is the body of a PATCH. It hashes what has not been hashed in an
// earlier attempt. net/http may go on reading it for a moment after the answer came.
type uploadBody struct {
	session *uploadSession
	stopped atomic.Bool

	mu  sync.Mutex
	src io.Reader
	pos int64
	err error // what the source ended with, if not EOF
}

// Read implements io.Reader.
func (b *uploadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped.Load() {
		return 0, errors.New("the upload has ended")
	}
	n, err := b.src.Read(p)
	if err != nil && err != io.EOF && !b.stopped.Load() {
		b.err = err
	}
	s := b.session
	if end := b.pos + int64(n); end > s.summed {
		s.sum.Write(p[n-int(end-s.summed) : n])
		s.summed = end
	}
	b.pos += int64(n)
	s.report(b.pos)
	return n, err
}

// stop ends the source with cancel, waits for a Read that is under way, lets no
// other follow, and returns the error that the source had of its own.
func (b *uploadBody) stop(cancel func()) error {
	b.stopped.Store(true)
	cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
