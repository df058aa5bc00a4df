package registry

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	"github.com/berthregistry/berth/internal/oci"
)

// A part of a list of repositories may end at one that whoever reads it must not know of: then the place to go on from is concealed.

// concealed begins what no name of a repository begins with.
const concealed = "~"

// Conceal makes of the place at which a list goes on a text that tells it to this registry alone, on every node.
func (g *Registry) Conceal(place string) string {
	return concealed + base64.RawURLEncoding.EncodeToString(g.places().Seal(nil, nil, []byte(place), nil))
}

// Reveal returns the place that Conceal was given; any other text is a place itself.
func (g *Registry) Reveal(text string) (string, error) {
	sealed, ok := strings.CutPrefix(text, concealed)
	if !ok {
		return text, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(sealed)
	if err == nil {
		b, err = g.places().Open(nil, nil, b, nil)
	}
	if err != nil {
		return "", oci.Errorf(oci.CodeUnsupported, "a list goes on after what its last part said, which is taken as it is, or after a name").
			WithStatus(http.StatusBadRequest)
	}
	return string(b), nil
}

// conceal conceals the place to go on from unless it is one of the names that are shown.
func (g *Registry) conceal(next string, names []string) string {
	if next == "" || slices.Contains(names, next) {
		return next
	}
	return g.Conceal(next)
}

// places returns the cipher, AES-256-GCM, of places.
func (g *Registry) places() cipher.AEAD {
	mac := hmac.New(sha256.New, g.key)
	mac.Write([]byte("places in lists"))
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		panic(err) // the key has the right length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // the block, too
	}
	return aead
}
