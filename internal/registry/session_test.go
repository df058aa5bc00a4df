package registry_test

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berthregistry/berth/internal/oci"
)

func TestSession(t *testing.T) {
	w := newWorld(t)
	for _, alg := range []oci.Algorithm{oci.SHA256, oci.SHA512} {
		s := w.StartUpload("team/app", alg, 0)
		token := w.Token(s)
		got, err := w.Session("team/app", s.ID, token, 0)
		if err != nil || got != s {
			t.Errorf("session %+v came back as %+v, %v", s, got, err)
		}
		refused := func(r oci.Repository, id, token string) {
			t.Helper()
			if got, err := w.Session(r, id, token, 0); err == nil {
				t.Errorf("session %s of %s with the token %q is accepted: %+v", id, r, token, got)
			} else {
				wantCode(t, err, oci.CodeBlobUploadUnknown)
			}
		}
		refused("team/other", s.ID, token)
		refused("team", s.ID, token)
		refused("team/app", uuid.NewString(), token)
		refused("team/app", strings.ToUpper(s.ID), token)
		refused("team/app", "", token)
		refused("team/app", s.ID+"\x00team/app", token)
		refused("team/app", s.ID, "")
		refused("team/app", s.ID, token+"A")
		refused("team/app", s.ID, token[:len(token)-1])
		refused("team/app", s.ID, strings.Repeat(token, 1000))
		refused("team/app", s.ID, w.Token(w.StartUpload("team/app", alg, 0)))
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		for bit := range 8 * len(raw) { // the time, the algorithm and the seal
			raw[bit/8] ^= 1 << (bit % 8)
			refused("team/app", s.ID, base64.RawURLEncoding.EncodeToString(raw))
			raw[bit/8] ^= 1 << (bit % 8)
		}
		if other := newWorld(t); other.Registry != nil {
			if _, err := other.Session("team/app", s.ID, token, 0); err == nil {
				t.Error("another registry accepts the session")
			}
		}
	}
}

// A session lives as long as its expiry after its start, if it has no bytes.
func TestUnusedSessionExpires(t *testing.T) {
	w := newWorld(t)
	s := w.begin()
	s.Started = time.Now().Add(-time.Hour + time.Minute)
	if _, err := w.UploadSize(t.Context(), s); err != nil {
		t.Errorf("a young session: %v", err)
	}
	s.Started = time.Now().Add(-time.Hour - time.Minute)
	_, err := w.UploadSize(t.Context(), s)
	wantCode(t, err, oci.CodeBlobUploadUnknown)
	_, err = w.AppendUpload(t.Context(), s, body("x"))
	wantCode(t, err, oci.CodeBlobUploadUnknown)
	if n := w.files(); n != 0 {
		t.Errorf("%d objects are stored", n)
	}
}
