package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

func TestUpload(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	if n, err := w.UploadSize(t.Context(), s); n != 0 || err != nil {
		t.Errorf("a new session has %d bytes, %v", n, err)
	}
	w.add(s, body("one,"), 4)
	w.add(s, bodyAt(4, "two,"), 8)
	_, err := w.AppendUpload(t.Context(), s, bodyAt(4, "two,"))
	wantOffset(t, err, 8)
	_, err = w.AppendUpload(t.Context(), s, bodyAt(9, "x"))
	wantOffset(t, err, 8)
	wantOffset(t, w.FinishUpload(t.Context(), s, digestOf("one,two,three"), bodyAt(0, "three")), 8)
	w.add(s, body(""), 8)
	if n, err := w.UploadSize(t.Context(), s); n != 8 || err != nil {
		t.Errorf("the session has %d bytes, %v", n, err)
	}
	if err := w.FinishUpload(t.Context(), s, digestOf("one,two,three"), bodyAt(8, "three")); err != nil {
		t.Fatal(err)
	}
	w.wantBlob("app", "one,two,three")

	// Its client did not get the answer and asks again.
	if err := w.FinishUpload(t.Context(), s, digestOf("one,two,three"), body("")); err != nil {
		t.Errorf("the same end again: %v", err)
	}
	if err := w.FinishUpload(t.Context(), s, digestOf("one,two,three"), body("three")); err != nil {
		t.Errorf("the same end again, with its bytes: %v", err)
	}
	wantCode(t, w.FinishUpload(t.Context(), s, digestOf("other"), body("")), oci.CodeBlobUploadUnknown)
	if n := w.files(); n != 1 {
		t.Errorf("%d objects are stored, expected the blob", n)
	}
}

// What came before the line broke is kept, and the client goes on from there, also after the
// server has started again.
func TestUploadGoesOn(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	broken := func(err error) {
		t.Helper()
		if e, ok := errors.AsType[*registry.BodyError](err); !ok || !errors.Is(e, errBroken) {
			t.Errorf("got %v, expected the body's error", err)
		}
	}
	_, err := w.AppendUpload(t.Context(), s, brokenBody("one,"))
	broken(err)
	broken(w.FinishUpload(t.Context(), s, digestOf("one,two,three"), brokenBody("two,")))
	w.db.Close()
	w.open()
	if n, err := w.UploadSize(t.Context(), s); n != 8 || err != nil {
		t.Errorf("the session has %d bytes, %v", n, err)
	}
	if err := w.FinishUpload(t.Context(), s, digestOf("one,two,three"), bodyAt(8, "three")); err != nil {
		t.Fatal(err)
	}
	w.wantBlob("app", "one,two,three")

	// Nobody can go on with a blob that is sent in one request, so nothing of it is kept; nor
	// is a session without a byte.
	broken(w.PutBlob(t.Context(), "app", digestOf("x"), brokenBody("x")))
	_, err = w.AppendUpload(t.Context(), w.begin(), brokenBody(""))
	broken(err)
	if n := w.files(); n != 1 {
		t.Errorf("%d objects are stored, expected the blob", n)
	}
	if n, err := w.db.CountUploads(t.Context()); n != 0 || err != nil {
		t.Errorf("%d sessions are left, %v", n, err)
	}
}

func TestCancelUpload(t *testing.T) {
	w := newWorld(t)
	used, unused := w.begin(), w.begin()
	w.add(used, body("bytes"), 5)
	for _, s := range []registry.Session{used, unused} {
		if err := w.CancelUpload(t.Context(), s); err != nil {
			t.Error(err)
		}
		wantCode(t, w.CancelUpload(t.Context(), s), oci.CodeBlobUploadUnknown)
		_, err := w.UploadSize(t.Context(), s)
		wantCode(t, err, oci.CodeBlobUploadUnknown)
		_, err = w.AppendUpload(t.Context(), s, body("more"))
		wantCode(t, err, oci.CodeBlobUploadUnknown)
		wantCode(t, w.FinishUpload(t.Context(), s, digestOf("more"), body("more")), oci.CodeBlobUploadUnknown)
	}
}

func TestWrongDigest(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	w.add(s, body("bytes"), 5)
	wantCode(t, w.FinishUpload(t.Context(), s, digestOf("other"), body("")), oci.CodeDigestInvalid)
	wantCode(t, w.FinishUpload(t.Context(), w.begin(), digestOf("other"), body("bytes")), oci.CodeDigestInvalid)
	wantCode(t, w.PutBlob(t.Context(), "app", digestOf("other"), body("bytes")), oci.CodeDigestInvalid)
	wantCode(t, w.PutBlob(t.Context(), "app", oci.DigestBytes(oci.SHA512, []byte("other")), body("bytes")), oci.CodeDigestInvalid)
	for _, b := range []string{"bytes", "other"} {
		_, err := w.Blob(t.Context(), "app", digestOf(b))
		wantCode(t, err, oci.CodeBlobUnknown)
	}
	_, err := w.UploadSize(t.Context(), s)
	wantCode(t, err, oci.CodeBlobUploadUnknown)
}

// A session ends with a digest of either algorithm, whichever it was begun for.
func TestAlgorithms(t *testing.T) {
	w := newWorld(t)
	for _, begun := range []oci.Algorithm{oci.SHA256, oci.SHA512} {
		for _, ended := range []oci.Algorithm{oci.SHA256, oci.SHA512} {
			for _, chunked := range []bool{false, true} {
				b := fmt.Sprintf("%s %s %t", begun, ended, chunked)
				s := w.StartUpload("app", begun, 0)
				if chunked {
					w.add(s, body(b[:9]), 9)
				} else if err := w.FinishUpload(t.Context(), s, oci.DigestBytes(ended, []byte("no "+b)), body(b)); err == nil {
					t.Errorf("%s: a wrong digest is accepted", b)
				}
				rest := b
				if chunked {
					rest = b[9:]
				}
				d := oci.DigestBytes(ended, []byte(b))
				if err := w.FinishUpload(t.Context(), s, d, body(rest)); err != nil {
					t.Errorf("%s: %v", b, err)
					continue
				}
				got, err := os.ReadFile(w.path("app", d))
				if err != nil || string(got) != b {
					t.Errorf("%s is stored as %q, %v", b, got, err)
				}
			}
		}
	}
}

// A second sender interrupts the first, whose bytes so far are kept.
func TestInterrupt(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	r, pipe := io.Pipe()
	first := registry.Body{Reader: r, First: -1, Interrupt: func() { pipe.CloseWithError(errBroken) }}
	result := make(chan error)
	go func() {
		_, err := w.AppendUpload(t.Context(), s, first)
		result <- err
	}()
	io.WriteString(pipe, "one,") // returns when it has been read, so the first sender is at it
	w.add(s, bodyAt(4, "two,"), 8)
	if err := <-result; !errors.Is(err, errBroken) {
		t.Errorf("the first sender got %v", err)
	}
	if err := w.FinishUpload(t.Context(), s, digestOf("one,two,"), body("")); err != nil {
		t.Error(err)
	}

	// Who waits for the first and leaves does not wait any longer.
	s = w.begin()
	r, pipe = io.Pipe()
	stubborn := registry.Body{Reader: r, First: -1, Interrupt: func() {}}
	go func() {
		_, err := w.AppendUpload(t.Context(), s, stubborn)
		result <- err
	}()
	io.WriteString(pipe, "one,")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.AppendUpload(ctx, s, body("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, expected that waiting was given up", err)
	}
	pipe.Close()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// A request that has ended is not interrupted any more: its connection may serve the next one.
func TestInterruptNeverLate(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	var senders sync.WaitGroup
	for range 4 {
		senders.Go(func() {
			for range 25 {
				var ended atomic.Bool
				b := body("x")
				b.Interrupt = func() {
					time.Sleep(time.Millisecond) // time for the request to end, if it could
					if ended.Load() {
						t.Error("interrupted after the end")
					}
				}
				_, err := w.AppendUpload(t.Context(), s, b)
				ended.Store(true)
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	senders.Wait()
	if n, err := w.UploadSize(t.Context(), s); n != 4*25 || err != nil {
		t.Errorf("the session has %d bytes, %v", n, err)
	}
}

// An outcome does not depend on whether the client waits for it.
func TestClientLeaves(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	ctx, leave := context.WithCancel(t.Context())
	b := body("bytes")
	b.Reader = io.MultiReader(b.Reader, leaving(leave))
	if err := w.FinishUpload(ctx, s, digestOf("bytes"), b); err != nil {
		// The end of the client was seen before the end of its bytes: they are kept.
		if n, err := w.UploadSize(t.Context(), s); n != 5 || err != nil {
			t.Errorf("the session has %d bytes, %v", n, err)
		}
		return
	}
	w.wantBlob("app", "bytes")
}

// leaving is a body's end at which the client leaves.
type leaving func()

func (leave leaving) Read([]byte) (int, error) {
	leave()
	return 0, io.EOF
}
