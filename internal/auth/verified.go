package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"time"

	"github.com/hashicorp/golang-lru/v2"
)

// verified remembers for a while what was verified at some cost: the signature of a token, a password. It holds no secret, only a
// keyed hash of it, and no right: those, and whether account, credential and password still stand, are read for each request.
type verified struct {
	key []byte
	lru *lru.Cache[[sha256.Size]byte, verifiedEntry]
}

type verifiedEntry struct {
	identity Identity
	until    time.Time
}

const rememberVerified = 16384

func newVerified() (*verified, error) {
	c, err := lru.New[[sha256.Size]byte, verifiedEntry](rememberVerified)
	if err != nil {
		return nil, err
	}
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return &verified{key, c}, nil
}

// sum returns the keyed hash of texts. Nobody sees it, so the key before the text is enough.
func (v *verified) sum(texts ...string) [sha256.Size]byte {
	b := append(make([]byte, 0, 1024), v.key...)
	for _, s := range texts {
		b = append(append(b, s...), 0)
	}
	return sha256.Sum256(b)
}

func (v *verified) get(sum [sha256.Size]byte, now time.Time) (Identity, bool) {
	e, ok := v.lru.Get(sum)
	if !ok || !now.Before(e.until) {
		return Identity{}, false
	}
	return e.identity, true
}

func (v *verified) has(sum [sha256.Size]byte, now time.Time) bool {
	_, ok := v.get(sum, now)
	return ok
}

func (v *verified) put(sum [sha256.Size]byte, id Identity, until time.Time) {
	v.lru.Add(sum, verifiedEntry{id, until})
}
