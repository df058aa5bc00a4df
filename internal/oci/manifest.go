package oci

import (
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
)

// Media types of manifests, and the ones that decide how a manifest is treated.
const (
	MediaTypeImage       = "application/vnd.oci.image.manifest.v1+json"
	MediaTypeIndex       = "application/vnd.oci.image.index.v1+json"
	MediaTypeDockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeEmpty       = "application/vnd.oci.empty.v1+json"

	mediaTypeSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// Descriptor refers to content (image-spec descriptor.md). Only what a registry
// acts on is decoded.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       Digest            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	URLs         []string          `json:"urls,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
}

// Platform is what an index says that a child runs on (image-spec image-index.md).
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
	OSVersion    string `json:"os.version,omitempty"`
}

// Foreign tells whether the content is fetched from elsewhere, so that it may be
// missing here: a non-distributable layer (image-spec layer.md#non-distributable-layers),
// or Docker's foreign layer (manifest-v2-2.md).
func (d Descriptor) Foreign() bool {
	return strings.HasPrefix(d.MediaType, "application/vnd.oci.image.layer.nondistributable.") ||
		d.MediaType == "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
}

// Manifest is what a registry needs to know of a manifest's bytes.
type Manifest struct {
	MediaType    string
	Blobs        []Descriptor // config first, then layers; each digest once; empty for an index
	Manifests    []Descriptor // children of an index; each digest once
	Subject      *Descriptor
	ArtifactType string // of the manifest, or its config's media type; may be empty for an index
	Annotations  map[string]string
}

// IsIndex tells whether m lists other manifests.
func (m *Manifest) IsIndex() bool { return isIndex(m.MediaType) }

func isIndex(mediaType string) bool {
	return mediaType == MediaTypeIndex || mediaType == MediaTypeDockerIndex
}

// ParseManifest reads body, which was sent with the given Content-Type; an
// empty one is taken from the body. All four media types of images and indexes are
// accepted; any other, and a body whose shape is not what its type says, is
// refused with an *Error of code MANIFEST_INVALID. Fields that are not known
// are ignored, as image-spec considerations.md asks. Names of fields are matched exactly and may not
// be repeated, so that no two readers of the same bytes see different manifests.
func ParseManifest(contentType string, body []byte) (*Manifest, error) {
	var doc struct {
		schemaVersion int
		mediaType     string
		artifactType  string
		config        *Descriptor
		layers        []Descriptor
		manifests     []Descriptor
		subject       *Descriptor
		annotations   map[string]string
	}
	fields := []field{
		{name: "schemaVersion", into: &doc.schemaVersion},
		{name: "mediaType", into: &doc.mediaType},
		{name: "artifactType", into: &doc.artifactType},
		{name: "config", into: &doc.config},
		{name: "layers", into: &doc.layers},
		{name: "manifests", into: &doc.manifests},
		{name: "subject", into: &doc.subject},
		{name: "annotations", into: &doc.annotations},
		{name: "fsLayers"}, // of schema 1
		{name: "signatures"},
	}
	if err := decode(body, fields); err != nil {
		return nil, Errorf(CodeManifestInvalid, "the manifest cannot be read: %.300v", err) // it quotes what was sent
	}
	has := func(name string) bool {
		return slices.ContainsFunc(fields, func(f field) bool { return f.name == name && f.there })
	}

	mediaType, err := manifestType(contentType, doc.mediaType, has)
	if err != nil {
		return nil, err
	}
	if doc.schemaVersion != 2 {
		return nil, Errorf(CodeManifestInvalid, "schemaVersion is %d, it must be 2", doc.schemaVersion)
	}
	m := &Manifest{
		MediaType:    mediaType,
		Subject:      doc.subject,
		ArtifactType: doc.artifactType,
		Annotations:  doc.annotations,
	}
	if m.Subject != nil {
		if err := checkDescriptor("subject", *m.Subject); err != nil {
			return nil, err
		}
	}
	if m.IsIndex() {
		if has("config") || has("layers") {
			return nil, Errorf(CodeManifestInvalid, "an index has no config and no layers, but this one does")
		}
		if !has("manifests") {
			return nil, Errorf(CodeManifestInvalid, "an index needs the field \"manifests\"")
		}
		m.Manifests, err = unique("manifests", doc.manifests)
		return m, err
	}
	if has("manifests") {
		return nil, Errorf(CodeManifestInvalid, "an image manifest has no field \"manifests\", but this one does")
	}
	if doc.config == nil {
		return nil, Errorf(CodeManifestInvalid, "an image manifest needs the field \"config\"")
	}
	if m.ArtifactType == "" {
		m.ArtifactType = doc.config.MediaType // spec.md#listing-referrers
	}
	if err := checkDescriptor("config", *doc.config); err != nil {
		return nil, err
	}
	blobs, err := unique("config and layers", append([]Descriptor{*doc.config}, doc.layers...))
	if err != nil {
		return nil, err
	}
	m.Blobs = blobs
	return m, nil
}

// manifestType decides the media type. The one in the header and the one in the body
// must agree, or two readers could take the same digest for different documents.
func manifestType(contentType, inBody string, has func(field string) bool) (string, error) {
	mediaType := ""
	if contentType != "" {
		t, _, err := mime.ParseMediaType(contentType) // parameters are ignored, spec.md#pushing-manifests
		if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
			return "", Errorf(CodeManifestInvalid, "Content-Type %q is not a media type", clip(contentType))
		}
		mediaType = t
	}
	if mediaType != "" && inBody != "" && mediaType != inBody {
		return "", Errorf(CodeManifestInvalid, "Content-Type is %q but the manifest's mediaType is %q: they must be equal", clip(mediaType), clip(inBody))
	}
	if mediaType == "" {
		mediaType = inBody
	}
	if mediaType == "" {
		switch {
		case has("fsLayers") || has("signatures"):
			mediaType = mediaTypeSchema1
		case has("manifests"):
			mediaType = MediaTypeIndex
		default:
			mediaType = MediaTypeImage
		}
	}
	switch mediaType {
	case MediaTypeImage, MediaTypeIndex, MediaTypeDockerImage, MediaTypeDockerIndex:
		return mediaType, nil
	case mediaTypeSchema1, mediaTypeSchema1Signed:
		return "", Errorf(CodeManifestInvalid, "Docker manifests of schema 1 are not accepted: push with Docker 1.10 or newer, or convert the image with skopeo copy --format oci")
	}
	return "", Errorf(CodeManifestInvalid, "a manifest of type %q is not accepted: use %s, %s, or Docker's schema 2 counterparts", clip(mediaType), MediaTypeImage, MediaTypeIndex)
}

// unique checks the descriptors and drops repetitions of a digest.
func unique(field string, in []Descriptor) ([]Descriptor, error) {
	out := make([]Descriptor, 0, len(in))
	seen := make(map[Digest]int, len(in))
	for i, d := range in {
		if err := checkDescriptor(fmt.Sprintf("%s[%d]", field, i), d); err != nil {
			return nil, err
		}
		if at, ok := seen[d.Digest]; ok {
			// Content that one descriptor calls foreign and another does not must be here.
			if out[at].Foreign() && !d.Foreign() {
				out[at] = d
			}
			continue
		}
		seen[d.Digest] = len(out)
		out = append(out, d)
	}
	return out, nil
}

func checkDescriptor(where string, d Descriptor) error {
	switch {
	case d.Digest.IsZero():
		return Errorf(CodeManifestInvalid, "%s has no digest", where)
	case d.Size < 0:
		return Errorf(CodeManifestInvalid, "%s has the size %d, which is negative", where, d.Size)
	case d.MediaType == "":
		return Errorf(CodeManifestInvalid, "%s has no mediaType", where)
	}
	return nil
}
