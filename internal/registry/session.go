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
	Account    int64     // who began it; 0 for who did not sign in
}

// StartUpload begins an upload (spec.md#pushing-blobs).
func (g *Registry) StartUpload(r oci.Repository, a oci.Algorithm, account int64) Session {
	return Session{ID: uuid.NewString(), Repository: r, Algorithm: a, Started: time.Unix(time.Now().Unix(), 0), Account: account}
}

// The head of a token says what the session's fields are; that of an account's session has 8 bytes more.
const (
	headLength        = 9
	accountHeadLength = headLength + 8
)

// Token returns what proves, with ID and Repository, that this registry began the session.
func (g *Registry) Token(s Session) string {
	b := make([]byte, headLength, accountHeadLength+sha256.Size)
	binary.BigEndian.PutUint64(b[:8], uint64(s.Started.Unix()))
	if s.Algorithm == oci.SHA512 {
		b[8] = 1
	}
	if s.Account != 0 {
		b = binary.BigEndian.AppendUint64(b, uint64(s.Account))
	}
	return base64.RawURLEncoding.EncodeToString(g.seal(s, b, b))
}

// Session checks what a client sent back. A session of another repository, of
// another registry or of another account, or an expired one is unknown.
func (g *Registry) Session(r oci.Repository, id, token string, account int64) (Session, error) {
	unknown := oci.Errorf(oci.CodeBlobUploadUnknown, "there is no such upload in %s: it may have ended or expired; begin a new one, and use its Location as it is", r)
	b, err := base64.RawURLEncoding.DecodeString(token)
	head := len(b) - sha256.Size
	if err != nil || head != headLength && head != accountHeadLength || b[8] > 1 {
		return Session{}, unknown
	}
	s := Session{ID: id, Repository: r, Algorithm: oci.SHA256, Started: time.Unix(int64(binary.BigEndian.Uint64(b)), 0)}
	if b[8] == 1 {
		s.Algorithm = oci.SHA512
	}
	if head == accountHeadLength {
		s.Account = int64(binary.BigEndian.Uint64(b[headLength:]))
	}
	if !hmac.Equal(b[head:], g.seal(s, b[:head], nil)) || s.Account != account {
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
