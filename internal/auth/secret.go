package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"hash/crc32"
	"strings"

	"github.com/berthregistry/berth/internal/meta"
)

// A secret is a prefix by which people and scanners recognise it, 160 random bits and a checksum, by which a mistyped one is
// refused without asking the database. It is stored as its SHA-256: there is nothing to guess, so a slow hash would gain nothing.
var secretPrefixes = map[meta.CredentialKind]string{
	meta.TokenCredential:   "berth_pat_",
	meta.SecretCredential:  "berth_bot_",
	meta.RefreshCredential: "berth_ref_",
	meta.SignInCredential:  "berth_sso_",
}

var secretEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

const (
	secretRandom = 20 // bytes
	secretLength = len("berth_pat_") + 39
)

// NewSecret makes the secret of a credential and returns it with its hash, which is all that is stored of it.
func NewSecret(kind meta.CredentialKind) (secret string, hash []byte) {
	prefix := secretPrefixes[kind]
	b := make([]byte, secretRandom, secretRandom+4)
	rand.Read(b)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(append([]byte(prefix), b...)))
	secret = prefix + secretEncoding.EncodeToString(b)
	return secret, hashSecret(secret)
}

func hashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// secretKind tells what a text is a secret of, if it is one.
func secretKind(s string) (meta.CredentialKind, bool) {
	if len(s) != secretLength {
		return "", false
	}
	for kind, prefix := range secretPrefixes {
		rest, ok := strings.CutPrefix(s, prefix)
		if !ok {
			continue
		}
		b, err := secretEncoding.DecodeString(rest)
		if err != nil || len(b) != secretRandom+4 || secretEncoding.EncodeToString(b) != rest { // the last letter has bits to spare
			return "", false
		}
		sum := crc32.ChecksumIEEE(append([]byte(prefix), b[:secretRandom]...))
		return kind, sum == binary.BigEndian.Uint32(b[secretRandom:])
	}
	return "", false
}
