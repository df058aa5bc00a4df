package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

// Bounds on what is fetched to describe one manifest.
const (
	maxChildren  = 256  // of an index
	maxDescribed = 2048 // descriptions kept, because tags share content
	maxNesting   = 4    // of indexes
)

// description is what a list shows of a manifest.
type description struct {
	MediaType    string
	ArtifactType string         // empty for container images and plain indexes
	Platforms    []oci.Platform // empty for artifacts
	Size         int64          // compressed bytes of all its blobs, each counted once; -1 if unknown
	Created      time.Time      // zero if unknown

	blobs map[oci.Digest]int64
}

// describer describes the manifests of one repository. It may be used concurrently.
type describer struct {
	repo *upstream.Repository

	mu   sync.Mutex
	kept map[describedKey]*description
}

// describedKey tells apart whether the configuration was read.
type describedKey struct {
	digest oci.Digest
	brief  bool
}

func newDescriber(repo *upstream.Repository) *describer {
	return &describer{repo: repo, kept: map[describedKey]*description{}}
}

// describe fetches what m refers to, as far as it is needed.
func (d *describer) describe(ctx context.Context, m upstream.Manifest) (*description, error) {
	return d.at(ctx, m.Digest, &m, 0, false)
}

// at describes the manifest with the digest, which is fetched if it is not given. brief leaves out
// what only the configuration of an image says.
func (d *describer) at(ctx context.Context, digest oci.Digest, m *upstream.Manifest, depth int, brief bool) (*description, error) {
	key := describedKey{digest, brief}
	d.mu.Lock()
	known, ok := d.kept[key]
	d.mu.Unlock()
	if ok {
		return known, nil
	}
	if m == nil {
		fetched, err := d.repo.Manifest(ctx, oci.Reference{Digest: digest})
		if err != nil {
			return nil, err
		}
		m = &fetched
	}
	parsed, err := oci.ParseManifest(m.MediaType, m.Body)
	if err != nil {
		return nil, err
	}
	desc := &description{MediaType: m.MediaType, blobs: map[oci.Digest]int64{}}
	if parsed.IsIndex() {
		err = d.index(ctx, desc, parsed, depth)
	} else {
		err = d.image(ctx, desc, parsed, brief)
	}
	if err != nil {
		return nil, err
	}
	if desc.Size == 0 {
		for _, n := range desc.blobs {
			desc.Size += n
		}
	}
	if desc.Created.IsZero() {
		desc.Created, _ = time.Parse(time.RFC3339, parsed.Annotations["org.opencontainers.image.created"])
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.kept) >= maxDescribed {
		clear(d.kept)
	}
	d.kept[key] = desc
	return desc, nil
}

func (d *describer) image(ctx context.Context, desc *description, m *oci.Manifest, brief bool) error {
	for _, b := range m.Blobs {
		if !b.Foreign() {
			desc.blobs[b.Digest] = b.Size
		}
	}
	if brief {
		return nil
	}
	config, err := d.repo.Config(ctx, m)
	if err != nil {
		return err
	}
	if config != nil {
		desc.Created = config.CreatedAt()
		if p := config.Platform(); p.OS != "" {
			desc.Platforms = []oci.Platform{p}
			return nil
		}
	}
	desc.ArtifactType = m.ArtifactType
	if (config != nil || m.ArtifactType == oci.MediaTypeEmpty) && len(m.Blobs) > 1 {
		desc.ArtifactType = m.Blobs[1].MediaType // as old versions of cosign and oras tell it
	}
	return nil
}

// index adds up the children. One that the registry does not have counts nothing: an index may
// be pushed without all of its children.
func (d *describer) index(ctx context.Context, desc *description, m *oci.Manifest, depth int) error {
	for i, c := range m.Manifests {
		if c.Platform != nil && c.Platform.OS != "unknown" {
			desc.Platforms = append(desc.Platforms, *c.Platform)
		}
		if i >= maxChildren || depth >= maxNesting {
			desc.Size = -1
			continue
		}
		if !isManifestType(c.MediaType) {
			desc.blobs[c.Digest] = c.Size
			continue
		}
		// One date and the platforms that the index does not name are all that is
		// needed of the configurations.
		brief := !desc.Created.IsZero() && c.Platform != nil
		child, err := d.at(ctx, c.Digest, nil, depth+1, brief)
		if errors.Is(err, upstream.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if child.Size < 0 {
			desc.Size = -1
		}
		maps.Copy(desc.blobs, child.blobs)
		if c.Platform == nil {
			desc.Platforms = append(desc.Platforms, child.Platforms...)
		}
		if child.Created.After(desc.Created) {
			desc.Created = child.Created
		}
	}
	desc.ArtifactType = m.ArtifactType
	return nil
}

func isManifestType(mediaType string) bool {
	switch mediaType {
	case oci.MediaTypeImage, oci.MediaTypeIndex, oci.MediaTypeDockerImage, oci.MediaTypeDockerIndex:
		return true
	}
	return false
}

// kind returns what a list shows of what the manifest is: platforms, or the type of an artifact.
func (d *description) kind() string {
	if len(d.Platforms) == 0 {
		if d.ArtifactType != "" {
			return artifactName(d.ArtifactType)
		}
		return "index"
	}
	const shown = 3
	names := platformNames(d.Platforms)
	if len(names) > shown {
		return strings.Join(names[:shown], ",") + ",…"
	}
	return strings.Join(names, ",")
}

// platformNames lists platforms, each once.
func platformNames(platforms []oci.Platform) []string {
	var names []string
	for _, p := range platforms {
		if s := upstream.Printable(upstream.FormatPlatform(p)); s != "" && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	return names
}

// artifactName shortens the types of well-known artifacts.
func artifactName(mediaType string) string {
	switch mediaType {
	case "application/vnd.cncf.helm.config.v1+json":
		return "helm chart"
	case "application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.dev.cosign.artifact.sig.v1+json":
		return "cosign signature"
	case "application/vnd.dsse.envelope.v1+json":
		return "cosign attestation"
	case "application/vnd.dev.sigstore.bundle.v0.3+json":
		return "sigstore bundle"
	case "application/spdx+json":
		return "SPDX SBOM"
	case "application/vnd.cyclonedx+json":
		return "CycloneDX SBOM"
	case "application/vnd.wasm.config.v0+json":
		return "wasm"
	}
	return upstream.Printable(mediaType)
}

// sizeText returns a size in bytes as people read it.
func sizeText(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.Bytes(uint64(n))
}

// ageText returns a time as people read it.
func ageText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return humanize.Time(t)
}

// digestText returns the first digits of a digest, as docker shows them.
func digestText(d oci.Digest, whole bool) string {
	if whole {
		return d.String()
	}
	return d.Encoded()[:12]
}
