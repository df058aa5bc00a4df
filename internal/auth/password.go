package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"

	"github.com/berthregistry/berth/internal/oci"
)

// The parameters of argon2id that OWASP recommends: 19 MiB, two passes, one thread.
const (
	argonMemory  = 19 << 10 // KiB
	argonTime    = 2
	argonThreads = 1
	argonSalt    = 16
	argonKey     = 32
)

const (
	minPassword = 10
	maxPassword = 1024
)

// CheckPassword tells what is wrong with a new password, if anything.
func CheckPassword(password string) error {
	switch {
	case !utf8.ValidString(password) || strings.ContainsAny(password, "\x00\r\n"):
		return fmt.Errorf("a password is text without line breaks")
	case utf8.RuneCountInString(password) < minPassword:
		return fmt.Errorf("a password has at least %d characters", minPassword)
	case len(password) > maxPassword:
		return fmt.Errorf("a password has at most %d bytes", maxPassword)
	}
	if _, ok := secretKind(password); ok || looksLikeJWT(password) {
		return fmt.Errorf("a password does not look like a token")
	}
	return nil
}

// hashPassword returns an argon2id hash in PHC string format.
func hashPassword(password string) string {
	salt := make([]byte, argonSalt)
	rand.Read(salt)
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, argonKey)
	e := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, e.EncodeToString(salt), e.EncodeToString(key))
}

// HashPassword returns the hash of a new password, which CheckPassword has found nothing wrong with.
func (a *Auth) HashPassword(ctx context.Context, password string) (string, error) {
	if err := a.hashing.Acquire(ctx, 1); err != nil {
		return "", err
	}
	defer a.hashing.Release(1)
	return hashPassword(password), nil
}

// checkPassword tells whether a password has a hash. It takes as long for a hash that is empty.
func (a *Auth) checkPassword(ctx context.Context, password, hash string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	if err := a.hashing.Acquire(ctx, 1); err != nil {
		return false, err
	}
	defer a.hashing.Release(1)
	known := hash != ""
	if !known {
		hash = a.dummy
	}
	var version int
	var memory, passes uint32
	var threads uint8
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, oci.Errorf(oci.CodeUnknown, "the stored password cannot be read")
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &threads); err != nil || version != argon2.Version ||
		passes == 0 || threads == 0 || memory > 1<<20 {
		return false, oci.Errorf(oci.CodeUnknown, "the stored password cannot be read")
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) == 0 {
		return false, oci.Errorf(oci.CodeUnknown, "the stored password cannot be read")
	}
	key := argon2.IDKey([]byte(password), salt, passes, memory, threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(key, want) == 1 && known, nil
}
