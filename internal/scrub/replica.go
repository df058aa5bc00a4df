package scrub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"

	"github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

// Replica is another registry that has the same repositories.
type Replica struct {
	host string
	opts upstream.Options
}

// NewReplica returns the registry at a URL, which has no path. It is not contacted before it is needed. who may be nil.
func NewReplica(address string, who upstream.CredentialFunc) (*Replica, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a registry", address)
	}
	return &Replica{u.Host, upstream.Options{PlainHTTP: u.Scheme == "http", Credential: who, UserAgent: "berth"}}, nil
}

// String returns the registry's host.
func (r *Replica) String() string { return r.host }

// Close implements Mender.
func (r *Replica) Close() error { return nil }

// Open implements Mender.
func (r *Replica) Open(ctx context.Context, repositories []oci.Repository, d oci.Digest, size int64) (io.ReadCloser, error) {
	client, err := upstream.New(ctx, r.host, r.opts)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s lacks it: %w", r.host, blob.ErrNotFound)
	for _, name := range repositories {
		body, failed := client.Repository(name).Blob(ctx, oci.Descriptor{Digest: d, Size: size}, 0)
		if failed == nil {
			return &replicated{body, client}, nil
		}
		if !errors.Is(failed, upstream.ErrNotFound) {
			err = failed
		}
	}
	client.Close()
	return nil, err
}

// replicated closes the connection with the bytes.
type replicated struct {
	io.ReadCloser
	client *upstream.Client
}

// Close implements io.Closer.
func (r *replicated) Close() error {
	defer r.client.Close()
	return r.ReadCloser.Close()
}
