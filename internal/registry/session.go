package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"

	"github.com/google/uuid"

	"github.com/berthregistry/berth/internal/oci"
)

// Session names an upload that a client has begun. It travels, signed, in the
// Location of the upload, so that one which ends in the request after it began
// costs no row, and a million that are never used cost nothing.
type Session struct {
	ID         string // a UUID
	Repository oci.Repository
	Algorithm  oci.Algorithm
	Started    time.Time // to the second
}

// StartUpload begins an upload (spec.md#pushing-blobs).
func (g *Registry) StartUpload(r oci.Repository, a oci.Algorithm) Session {
	return Session{ID: uuid.NewString(), Repository: r, Algorithm: a, Started: time.Unix(time.Now().Unix(), 0)}
}

// Token returns what proves, with ID and Repository, that this registry began the session.
func (g *Registry) Token(s Session) string {
	var b [9 + sha256.Size]byte
	binary.BigEndian.PutUint64(b[:8], uint64(s.Started.Unix()))
	if s.Algorithm == oci.SHA512 {
		b[8] = 1
	}
	g.seal(s, b[:9], b[9:9])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Session checks what a client sent back. A session of another repository, of
// another registry, or an expired one is unknown.
func (g *Registry) Session(r oci.Repository, id, token string) (Session, error) {
	unknown := oci.Errorf(oci.CodeBlobUploadUnknown, "there is no such upload in %s: it may have ended or expired; begin a new one, and use its Location as it is", r)
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) != 9+sha256.Size || b[8] > 1 {
		return Session{}, unknown
	}
	s := Session{ID: id, Repository: r, Algorithm: oci.SHA256, Started: time.Unix(int64(binary.BigEndian.Uint64(b)), 0)}
	if b[8] == 1 {
		s.Algorithm = oci.SHA512
	}
	if !hmac.Equal(b[9:], g.seal(s, b[:9], nil)) {
		return Session{}, unknown
	}
	return s, nil
}

// seal appends the message authentication code of a session to dst.
func (g *Registry) seal(s Session, head, dst []byte) []byte {
	mac := hmac.New(sha256.New, g.key)
	mac.Write(head)
	mac.Write([]byte(s.ID))
	mac.Write([]byte{0})
	mac.Write([]byte(s.Repository))
	return mac.Sum(dst)
}
