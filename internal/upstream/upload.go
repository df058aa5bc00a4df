package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berthregistry/berth/internal/oci"
)

// smallBlob is the size in bytes up to which a blob is held in memory and sent in
// the closing request.
const smallBlob = 1 << 20

// Upload is a blob to be pushed.
type Upload struct {
	Desc oci.Descriptor // Digest and Size count
	// Open returns the blob's bytes from offset on. It is called again when the
	// registry lost bytes that it was sent, and makes its own attempts.
	Open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	// Mount names a repository of the same registry that may have the blob, so
	// that nothing needs to be sent; empty if there is none.
	Mount oci.Repository
	// Progress, if not nil, is told how many bytes were sent since its last call:
	// less than zero when some were in vain. It is called by one goroutine at a time.
	Progress func(n int64)
}

// PutBlob pushes a blob and tells whether it was mounted instead of sent. An
// upload that breaks off goes on at the byte that the registry got last. The
// content is checked against the digest before the registry is asked to accept
// it. When PutBlob gives up, it cancels the upload's session.
func (r *Repository) PutBlob(ctx context.Context, up Upload) (mounted bool, err error) {
	ctx = r.scope(ctx, auth.ActionPull, auth.ActionPush)
	s := &uploadSession{Upload: up, repo: r, algorithm: up.Desc.Digest.Algorithm()}
	s.sum = s.algorithm.New()
	for failures := 0; ; {
		before := s.offset
		if err = s.attempt(ctx); err == nil {
			return s.mounted, nil
		}
		if s.offset > before {
			failures = 0
		}
		failures++
		var final *finalError
		if ctx.Err() != nil || errors.As(err, &final) || failures > maxFailures {
			break
		}
		if pause(ctx, failures) != nil {
			break
		}
	}
	s.cancel(ctx)
	return false, r.fail("put blob "+up.Desc.Digest.String(), err)
}

// finalError marks a failure that another attempt would not mend.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// uploadSession is the state of one PutBlob.
type uploadSession struct {
	Upload
	repo      *Repository
	algorithm oci.Algorithm

	location *url.URL // nil when there is no session
	offset   int64    // bytes that the registry has
	unsure   bool     // whether the registry must be asked what it has
	reported int64    // bytes, to Progress
	mounted  bool

	sum    hash.Hash // of the first summed bytes
	summed int64
}

// attempt goes from where the session stands to the end.
func (s *uploadSession) attempt(ctx context.Context) error {
	if s.unsure {
		if done, err := s.recover(ctx); done || err != nil {
			return err
		}
	}
	if s.location == nil {
		if err := s.start(ctx); err != nil || s.mounted {
			return err
		}
	}
	s.unsure = true // until the end: whatever fails leaves it open what the registry got
	if s.Desc.Size <= smallBlob {
		return s.sendSmall(ctx)
	}
	if s.offset < s.Desc.Size {
		if done, err := s.send(ctx); done || err != nil {
			return err
		}
	}
	if err := s.check(); err != nil {
		return err
	}
	return s.finish(ctx, nil)
}

// start opens a session, or mounts the blob.
func (s *uploadSession) start(ctx context.Context) error {
	q := url.Values{}
	if s.algorithm != oci.SHA256 {
		q.Set("digest-algorithm", string(s.algorithm))
	}
	if s.Mount != "" {
		from := s.repo.remote.Reference
		from.Repository = string(s.Mount)
		mount := url.Values{"mount": {s.Desc.Digest.String()}, "from": {string(s.Mount)}}
		resp, err := s.do(auth.AppendRepositoryScope(ctx, from, auth.ActionPull), http.MethodPost, s.startURL(mount), nil, nil, 0)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusCreated:
			s.mounted = true
			return nil
		case resp.StatusCode == http.StatusAccepted && s.algorithm == oci.SHA256:
			return s.moved(resp)
		}
		// Some registries refuse where the specification asks for a session.
		s.Mount = ""
	}
	resp, err := s.do(ctx, http.MethodPost, s.startURL(q), nil, nil, 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return answerError(resp)
	}
	return s.moved(resp)
}

func (s *uploadSession) startURL(q url.Values) *url.URL {
	u, _ := url.Parse(s.repo.url("blobs", "uploads", "")) // its parts were parsed before
	u.RawQuery = q.Encode()
	return u
}

// send streams what the registry does not have yet. done means that the registry
// has accepted the blob already.
func (s *uploadSession) send(ctx context.Context) (done bool, err error) {
	srcCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	src, err := s.Open(srcCtx, s.offset)
	if err != nil {
		return false, &finalError{err}
	}
	defer src.Close()
	header := http.Header{}
	if s.offset > 0 {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", s.offset, s.Desc.Size-1))
	}
	body := &uploadBody{session: s, src: src, pos: s.offset}
	resp, err := s.do(ctx, http.MethodPatch, s.location, header, body, s.Desc.Size-s.offset)
	readErr := body.stop(cancel)
	if err == nil {
		defer resp.Body.Close()
	}
	switch {
	case readErr != nil:
		return false, &finalError{readErr}
	case err != nil:
		return false, err
	case resp.StatusCode == http.StatusAccepted:
		s.offset = s.Desc.Size
		return false, s.moved(resp)
	case resp.StatusCode == http.StatusCreated:
		// Amazon ECR takes the blob as complete now, and would refuse a closing PUT.
		if err := s.check(); err != nil {
			return false, err
		}
		_, err := s.repo.blobSize(ctx, s.Desc.Digest)
		return true, err
	case resp.StatusCode == http.StatusNotFound:
		return false, responseError(resp) // the session is lost; another may fare better
	}
	return false, answerError(resp)
}

// sendSmall sends the whole blob with the closing request.
func (s *uploadSession) sendSmall(ctx context.Context) error {
	src, err := s.Open(ctx, 0)
	if err != nil {
		return &finalError{err}
	}
	defer src.Close()
	b := make([]byte, s.Desc.Size)
	if _, err := io.ReadFull(src, b); err != nil {
		return &finalError{err}
	}
	s.sum.Reset()
	s.sum.Write(b)
	if err := s.check(); err != nil {
		return err
	}
	if err := s.finish(ctx, b); err != nil {
		return err
	}
	s.report(s.Desc.Size)
	return nil
}

// check compares what was sent with what was to be sent.
func (s *uploadSession) check() error {
	if got := oci.DigestOf(s.algorithm, s.sum); got != s.Desc.Digest {
		return &finalError{&wrongContent{got}}
	}
	return nil
}

// finish closes the session with the last bytes.
func (s *uploadSession) finish(ctx context.Context, b []byte) error {
	u := *s.location
	q := u.Query()
	q.Set("digest", s.Desc.Digest.String())
	u.RawQuery = q.Encode()
	resp, err := s.do(ctx, http.MethodPut, &u, nil, bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusCreated, http.StatusNoContent:
		return nil
	case http.StatusNotFound:
		return responseError(resp)
	}
	return answerError(resp)
}

// recover finds out how things stand after a failure. done means that the blob is
// there: the answer to the closing request was lost, or none was needed.
func (s *uploadSession) recover(ctx context.Context) (done bool, err error) {
	if _, err := s.repo.blobSize(ctx, s.Desc.Digest); err == nil {
		s.report(s.Desc.Size)
		return true, nil
	}
	if s.Desc.Size > smallBlob {
		resp, err := s.do(ctx, http.MethodGet, s.location, nil, nil, 0)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		// Docker's registry answers 416 to every request about a session that is not at
		// the byte where it last told the client about it: such a session is lost.
		if transient(resp.StatusCode) && resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			return false, responseError(resp)
		}
		if have, ok := parseUploadRange(resp.Header.Get("Range")); ok && resp.StatusCode < 300 && have <= s.summed {
			s.report(have)
			s.offset, s.unsure = have, false
			return false, s.moved(resp)
		}
	}
	// The session is lost or of no use: begin again.
	s.cancel(ctx)
	s.report(0)
	s.offset, s.unsure = 0, false
	s.sum.Reset()
	s.summed = 0
	return false, nil
}

// report tells Progress that pos bytes have been sent.
func (s *uploadSession) report(pos int64) {
	if s.Progress != nil && pos != s.reported {
		s.Progress(pos - s.reported)
	}
	s.reported = pos
}

// answerError returns what resp says as a finalError unless it may pass.
func answerError(resp *http.Response) error {
	err := responseError(resp)
	if transient(err.Status) {
		return err
	}
	return &finalError{err}
}
