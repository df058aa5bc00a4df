package upstream

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credential is what a registry knows a user by. The zero value is anonymous.
type Credential struct {
	Username      string
	Password      string
	IdentityToken string // exchanged for access tokens at the token server
	AccessToken   string // sent as it is
}

// CredentialFunc returns the credential for a registry's host, or the zero value if
// there is none. It is called when the registry asks for one, maybe several times.
type CredentialFunc func(ctx context.Context, host string) (Credential, error)

// StoredCredentials returns the credentials that docker login and podman login keep:
// Docker's configuration file with its credential helpers first, then Podman's.
func StoredCredentials() (CredentialFunc, error) {
	docker, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the credentials that docker login keeps: %w", err)
	}
	var others []credentials.Store
	for _, path := range podmanFiles() {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		store, err := credentials.NewStore(path, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("read the credentials that podman login keeps: %w", err)
		}
		others = append(others, store)
	}
	return func(ctx context.Context, host string) (Credential, error) {
		c, err := docker.Get(ctx, credentials.ServerAddressFromRegistry(host))
		for i := 0; err == nil && c == auth.EmptyCredential && i < len(others); i++ {
			c, err = others[i].Get(ctx, host)
		}
		if err != nil {
			return Credential{}, err
		}
		return Credential{
			Username:      c.Username,
			Password:      c.Password,
			IdentityToken: c.RefreshToken,
			AccessToken:   c.AccessToken,
		}, nil
	}, nil
}

// StoreCredential keeps a credential for a registry's host as docker login does: with the credential helper that Docker's configuration
// file names, or else in that file, which only its owner can read. It returns the file's name. Podman reads it, too.
func StoreCredential(ctx context.Context, host string, c Credential) (file string, err error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{AllowPlaintextPut: true})
	if err != nil {
		return "", fmt.Errorf("read the credentials that docker login keeps: %w", err)
	}
	kept := auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.IdentityToken, AccessToken: c.AccessToken}
	if err := store.Put(ctx, credentials.ServerAddressFromRegistry(host), kept); err != nil {
		return "", fmt.Errorf("keep the credential in %s, as docker login does: %w", store.ConfigPath(), err)
	}
	return store.ConfigPath(), nil
}

func podmanFiles() []string {
	if path := os.Getenv("REGISTRY_AUTH_FILE"); path != "" {
		return []string{path}
	}
	var files []string
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	if dir, err := os.UserConfigDir(); err == nil {
		files = append(files, filepath.Join(dir, "containers", "auth.json"))
	}
	return files
}
