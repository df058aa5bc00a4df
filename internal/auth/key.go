package auth

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/berthregistry/berth/internal/meta"
)

// keyring has the keys that sign tokens, as the database has them. All nodes use the same ones.
//
// A new key is in the database for keyNotice before it signs. As a node reads the keys anew at least every keyRefresh, it knows a
// key before it sees a token that it signed; if it does not, because clocks differ, it reads them once more.
type keyring struct {
	db *meta.DB

	mu     sync.Mutex
	keys   []signingKey // in the order in which they sign
	read   time.Time
	looked time.Time // when an unknown key was last asked for
}

type signingKey struct {
	id        string
	private   ed25519.PrivateKey
	signsFrom time.Time
}

const (
	keyRefresh = time.Minute
	keyNotice  = 10 * time.Minute
	// clockSkew is by how much the clocks of nodes and issuers may differ.
	clockSkew = time.Minute
)

// load reads the keys if what is known is older than the given age. The caller holds mu.
func (k *keyring) load(ctx context.Context, now time.Time, age time.Duration) error {
	if !k.read.IsZero() && now.Sub(k.read) < age {
		return nil
	}
	rows, err := k.db.SigningKeys(ctx)
	if err != nil {
		return fmt.Errorf("read the keys that sign tokens: %w", err)
	}
	k.keys = k.keys[:0]
	for _, row := range rows {
		private, err := x509.ParsePKCS8PrivateKey(row.Private)
		key, ok := private.(ed25519.PrivateKey)
		if err != nil || !ok {
			return fmt.Errorf("the key %s, which signs tokens, cannot be read", row.ID)
		}
		k.keys = append(k.keys, signingKey{row.ID, key, row.From})
	}
	slices.SortFunc(k.keys, func(a, b signingKey) int { return a.signsFrom.Compare(b.signsFrom) })
	k.read = now
	return nil
}

// signer returns the key that signs at this moment, and makes the next one when its time has come.
func (k *keyring) signer(ctx context.Context, now time.Time, lifetime, tokens time.Duration) (signingKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx, now, keyRefresh); err != nil {
		return signingKey{}, err
	}
	last := func() int {
		for i := len(k.keys) - 1; i >= 0; i-- {
			if !k.keys[i].signsFrom.After(now) {
				return i
			}
		}
		return -1
	}
	i := last()
	switch {
	case i < 0: // the first one signs at once: there are no tokens that others could be asked about
		if err := k.make(ctx, now, now, lifetime, tokens); err != nil {
			return signingKey{}, err
		}
		if i = last(); i < 0 {
			return signingKey{}, errors.New("there is no key to sign tokens with: the clocks of the nodes differ by more than ten minutes")
		}
	case i == len(k.keys)-1 && now.Sub(k.keys[i].signsFrom) > lifetime:
		if err := k.make(ctx, now, now.Add(keyNotice), lifetime, tokens); err != nil {
			return signingKey{}, err
		}
		i = last()
	}
	return k.keys[i], nil
}

// make adds a key, unless another node has done so meanwhile, and drops those that nothing is signed with any more.
func (k *keyring) make(ctx context.Context, now, from time.Time, lifetime, tokens time.Duration) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(public)
	newest := ""
	if n := len(k.keys); n > 0 {
		newest = k.keys[n-1].id
	}
	err = k.db.AddSigningKey(ctx, meta.SigningKey{
		ID: base64.RawURLEncoding.EncodeToString(sum[:12]), Private: der, From: from,
		// It signs for its lifetime, or longer if nobody asks for a token meanwhile; what it signed lives on for a while.
		Until: from.Add(2*lifetime + tokens + 2*keyNotice),
	}, newest)
	if err != nil && !errors.Is(err, meta.ErrExists) { // else another node was first
		return fmt.Errorf("store a key to sign tokens with: %w", err)
	}
	if _, err := k.db.DeleteSigningKeys(ctx, now); err != nil {
		return fmt.Errorf("delete old keys that signed tokens: %w", err)
	}
	return k.load(ctx, now, 0)
}

// public returns the public key of an ID.
func (k *keyring) public(ctx context.Context, id string, now time.Time) (crypto.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.load(ctx, now, keyRefresh); err != nil {
		return nil, err
	}
	find := func() int { return slices.IndexFunc(k.keys, func(s signingKey) bool { return s.id == id }) }
	i := find()
	if i < 0 && now.Sub(k.looked) > time.Second { // so that made-up names of keys do not make work
		k.looked = now
		if err := k.load(ctx, now, 0); err != nil {
			return nil, err
		}
		i = find()
	}
	if i < 0 {
		return nil, ErrToken
	}
	return k.keys[i].private.Public(), nil
}

// KeySet returns the public keys (RFC 7517).
func (a *Auth) KeySet(ctx context.Context) (*jose.JSONWebKeySet, error) {
	now := a.opts.Now()
	if _, err := a.keys.signer(ctx, now, a.opts.KeyLifetime, a.opts.TokenLifetime); err != nil {
		return nil, err
	}
	a.keys.mu.Lock()
	defer a.keys.mu.Unlock()
	set := new(jose.JSONWebKeySet)
	for _, k := range a.keys.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(jose.EdDSA), Use: "sig"})
	}
	return set, nil
}
