package oci

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"
)

// Algorithm is a digest algorithm that Berth accepts.
type Algorithm string

// The registered algorithms of image-spec descriptor.md#registered-algorithms
// that are in use.
const (
	SHA256 Algorithm = "sha256"
	SHA512 Algorithm = "sha512"
)

// ParseAlgorithm reads a ?digest-algorithm= parameter
// (spec.md#pushing-a-blob-in-chunks, end-4c).
func ParseAlgorithm(s string) (Algorithm, error) {
	switch a := Algorithm(s); a {
	case SHA256, SHA512:
		return a, nil
	}
	return "", Errorf(CodeDigestInvalid, "digest algorithm %q is not supported: use sha256 or sha512", clip(s))
}

// New returns a running hash of the algorithm. It implements
// encoding.BinaryMarshaler and encoding.BinaryUnmarshaler.
func (a Algorithm) New() hash.Hash {
	if a == SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// Digest identifies content: an algorithm and the hash of the bytes. It is
// comparable; the zero value identifies nothing. Every non-zero value is valid.
type Digest struct {
	s string // "sha256:" and 64 lower-case hexadecimal digits, or likewise with sha512
}

// ParseDigest reads the form algorithm:hex of image-spec descriptor.md#digests.
// The error is an *Error with code DIGEST_INVALID.
func ParseDigest(s string) (Digest, error) {
	alg, enc, ok := strings.Cut(s, ":")
	if !ok {
		return Digest{}, Errorf(CodeDigestInvalid, "%q is not a digest: it has no algorithm before a ':'", clip(s))
	}
	a, err := ParseAlgorithm(alg)
	if err != nil {
		return Digest{}, err
	}
	want := 2 * sha256.Size
	if a == SHA512 {
		want = 2 * sha512.Size
	}
	if len(enc) != want {
		return Digest{}, Errorf(CodeDigestInvalid, "%q is not a digest: %s needs %d hexadecimal digits, not %d", clip(s), a, want, len(enc))
	}
	for i := 0; i < len(enc); i++ {
		if c := enc[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return Digest{}, Errorf(CodeDigestInvalid, "%q is not a digest: only digits and the letters a to f may follow %s:", clip(s), a)
		}
	}
	return Digest{s}, nil
}

// DigestOf returns the digest that the running hash h of algorithm a stands at.
func DigestOf(a Algorithm, h hash.Hash) Digest {
	return Digest{string(a) + ":" + hex.EncodeToString(h.Sum(nil))}
}

// DigestBytes hashes b.
func DigestBytes(a Algorithm, b []byte) Digest {
	if a == SHA512 {
		sum := sha512.Sum512(b)
		return Digest{string(a) + ":" + hex.EncodeToString(sum[:])}
	}
	sum := sha256.Sum256(b)
	return Digest{string(a) + ":" + hex.EncodeToString(sum[:])}
}

// Algorithm returns the part before the colon.
func (d Digest) Algorithm() Algorithm {
	a, _, _ := strings.Cut(d.s, ":")
	return Algorithm(a)
}

// Encoded returns the hexadecimal part.
func (d Digest) Encoded() string {
	_, enc, _ := strings.Cut(d.s, ":")
	return enc
}

// IsZero tells whether d identifies nothing.
func (d Digest) IsZero() bool { return d.s == "" }

// String returns the form algorithm:hex, or "" for the zero value.
func (d Digest) String() string { return d.s }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts valid digests only.
func (d *Digest) UnmarshalText(b []byte) error {
	var err error
	*d, err = ParseDigest(string(b))
	return err
}

// ReferrersTag returns the tag under which clients of registries without a
// referrers API keep the referrers of d (spec.md#referrers-tag-schema).
func (d Digest) ReferrersTag() Tag {
	enc := d.Encoded()
	if len(enc) > 64 {
		enc = enc[:64]
	}
	return Tag(string(d.Algorithm()) + "-" + enc)
}
