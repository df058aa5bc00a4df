package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berthregistry/berth/internal/oci"
)

// maxReferrerPages bounds the pages of one list of referrers.
const maxReferrerPages = 100

// Repository is one repository of a registry. Its errors are *OpErrors, and wrap an
// *Error where the registry answered.
type Repository struct {
	client *Client
	name   oci.Repository
	remote *remote.Repository
}

// Manifest is a manifest's bytes as the registry sent them, checked against Digest.
type Manifest struct {
	MediaType string // of the Content-Type, without parameters
	Digest    oci.Digest
	Body      []byte
}

// Name returns the repository's name.
func (r *Repository) Name() oci.Repository { return r.name }

// Host returns the registry's host.
func (r *Repository) Host() string { return r.client.host }

// SameRegistry tells whether blobs can be mounted from other.
func (r *Repository) SameRegistry(other *Repository) bool { return r.client.base == other.client.base }

// Tags yields all tags in the order that the registry lists them, fetching a page when the one before
// it is used up. An error ends the sequence.
func (r *Repository) Tags(ctx context.Context) iter.Seq2[oci.Tag, error] {
	return func(yield func(oci.Tag, error) bool) {
		var pages pageCheck
		err := r.remote.Tags(ctx, "", func(names []string) error {
			if err := pages.next(names); err != nil {
				return err
			}
			for _, s := range names {
				tag, err := oci.ParseTag(s)
				if err != nil {
					return err
				}
				if !yield(tag, nil) {
					return errStop
				}
			}
			return nil
		})
		if err != nil && err != errStop {
			yield("", r.fail("list tags", err))
		}
	}
}

// Resolve returns the media type, digest and size of a manifest, with a HEAD
// request. The error wraps ErrNotFound if there is none.
func (r *Repository) Resolve(ctx context.Context, ref oci.Reference) (oci.Descriptor, error) {
	desc, err := r.remote.Resolve(ctx, ref.String())
	if err != nil {
		return oci.Descriptor{}, r.fail("resolve "+ref.String(), err)
	}
	out, err := fromOCI(desc)
	return out, r.fail("resolve "+ref.String(), err)
}

// Manifest fetches a manifest. The error wraps ErrNotFound if there is none.
func (r *Repository) Manifest(ctx context.Context, ref oci.Reference) (Manifest, error) {
	m, err := r.manifest(ctx, ref)
	return m, r.fail("get manifest "+ref.String(), err)
}

func (r *Repository) manifest(ctx context.Context, ref oci.Reference) (Manifest, error) {
	desc, body, err := r.remote.FetchReference(ctx, ref.String())
	if err != nil {
		return Manifest{}, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, maxManifest+1))
	if err != nil {
		return Manifest{}, err
	}
	if len(b) > maxManifest {
		return Manifest{}, fmt.Errorf("the manifest is larger than %d MiB", maxManifest>>20)
	}
	// The digest of a tag's manifest is what the registry claims in a header. It is checked, too:
	// whoever goes on to use it would otherwise pass the claim on.
	want := ref.Digest
	if !ref.IsDigest() {
		if want, err = oci.ParseDigest(string(desc.Digest)); err != nil {
			return Manifest{}, err
		}
	}
	if got := oci.DigestBytes(want.Algorithm(), b); got != want {
		return Manifest{}, fmt.Errorf("the registry sent a manifest whose digest is %s instead of %s", got, want)
	}
	return Manifest{MediaType: desc.MediaType, Digest: want, Body: b}, nil
}

// PutManifest stores m under its digest or, if tag is not empty, under the tag, and checks that the
// registry knows it by m.Digest. Where the registry has no referrers API and m
// has a subject, the index that stands in for it is brought up to date
// (spec.md#pushing-manifests-with-subject).
func (r *Repository) PutManifest(ctx context.Context, m Manifest, tag oci.Tag) error {
	desc := ocispec.Descriptor{
		MediaType: m.MediaType,
		Digest:    godigest.Digest(m.Digest.String()),
		Size:      int64(len(m.Body)),
	}
	var err error
	switch {
	case tag == "":
		err = r.remote.Manifests().PushReference(ctx, desc, bytes.NewReader(m.Body), m.Digest.String())
	case m.Digest.Algorithm() == oci.SHA256:
		err = r.remote.Manifests().PushReference(ctx, desc, bytes.NewReader(m.Body), string(tag))
	default:
		if err = r.remote.Manifests().PushReference(ctx, desc, bytes.NewReader(m.Body), m.Digest.String()); err == nil {
			err = r.tagDigest(ctx, m, tag)
		}
	}
	name := m.Digest.String()
	if tag != "" {
		name = string(tag)
	}
	return r.fail("put manifest "+name, err)
}

// tagDigest gives a tag to a digest that a plain push under the tag would not
// lead to, because registries compute SHA-256 then (spec.md#pushing-manifests, end-7b).
func (r *Repository) tagDigest(ctx context.Context, m Manifest, tag oci.Tag) error {
	ctx = r.scope(ctx, auth.ActionPull, auth.ActionPush)
	u := r.url("manifests", m.Digest.String()) + "?" + url.Values{"tag": {string(tag)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, u, bytes.NewReader(m.Body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", m.MediaType)
	resp, err := r.client.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return responseError(resp)
	}
	for _, h := range resp.Header.Values("OCI-Tag") {
		for t := range strings.SplitSeq(h, ",") {
			if strings.TrimSpace(t) == string(tag) {
				return nil
			}
		}
	}
	return fmt.Errorf("the registry can't give a tag to a manifest whose digest is %s: copy it by digest", m.Digest.Algorithm())
}

// Referrers returns the descriptors of the manifests that name d as their subject, of the given
// artifact type or of all if it is empty. The fallback tag is asked where the registry has no
// referrers API.
func (r *Repository) Referrers(ctx context.Context, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	var out []oci.Descriptor
	subject := ocispec.Descriptor{Digest: godigest.Digest(d.String())}
	err := r.remote.Referrers(ctx, subject, artifactType, func(page []ocispec.Descriptor) error {
		for _, desc := range page {
			c, err := fromOCI(desc)
			if err != nil {
				return err
			}
			out = append(out, c)
		}
		return nil
	})
	if errors.Is(err, errdef.ErrInvalidReference) {
		out, err = r.fallbackReferrers(ctx, d, artifactType)
	}
	err = r.fail("list referrers of "+d.String(), err)
	if errors.Is(err, ErrNotFound) {
		return nil, nil // no repository, so no referrers
	}
	return out, err
}

// fallbackReferrers reads the fallback tag of a SHA-512 digest, whose length the library does
// not cut to what a tag may have.
func (r *Repository) fallbackReferrers(ctx context.Context, d oci.Digest, artifactType string) ([]oci.Descriptor, error) {
	m, err := r.manifest(ctx, oci.Reference{Tag: d.ReferrersTag()})
	if err != nil {
		return nil, err
	}
	index, err := oci.ParseManifest(m.MediaType, m.Body)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(index.Manifests, func(c oci.Descriptor) bool {
		return artifactType != "" && c.ArtifactType != artifactType
	}), nil
}

// fromOCI converts a descriptor; the library does not validate the ones it decodes.
func fromOCI(in ocispec.Descriptor) (oci.Descriptor, error) {
	d, err := oci.ParseDigest(string(in.Digest))
	if err != nil {
		return oci.Descriptor{}, err
	}
	out := oci.Descriptor{
		MediaType:    in.MediaType,
		Digest:       d,
		Size:         in.Size,
		ArtifactType: in.ArtifactType,
		Annotations:  in.Annotations,
		URLs:         slices.Clone(in.URLs),
	}
	if p := in.Platform; p != nil {
		out.Platform = &oci.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant, OSVersion: p.OSVersion}
	}
	return out, nil
}

// fail wraps err with the operation, the host and the repository.
func (r *Repository) fail(op string, err error) error {
	return r.client.fail(r.name, op, err)
}

// scope notes in ctx which rights on the repository a request needs.
func (r *Repository) scope(ctx context.Context, actions ...string) context.Context {
	return auth.AppendRepositoryScope(ctx, r.remote.Reference, actions...)
}

// url returns the URL of something in the repository.
func (r *Repository) url(parts ...string) string {
	return r.client.base + "/v2/" + string(r.name) + "/" + strings.Join(parts, "/")
}
