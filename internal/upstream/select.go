package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// Bounds on what is read of an image.
const (
	maxConfig = 8 << 20 // bytes
	maxDepth  = 8       // of indexes within indexes
)

// Media types of image configurations (image-spec config.md; manifest-v2-2.md).
const (
	mediaTypeConfig       = "application/vnd.oci.image.config.v1+json"
	mediaTypeDockerConfig = "application/vnd.docker.container.image.v1+json"
)

// Config is what is shown of an image's configuration (image-spec config.md).
type Config struct {
	Created      string `json:"created,omitempty"`
	Author       string `json:"author,omitempty"`
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
	OSVersion    string `json:"os.version,omitempty"`
	Config       struct {
		User         string              `json:"User,omitempty"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
		Env          []string            `json:"Env,omitempty"`
		Entrypoint   []string            `json:"Entrypoint,omitempty"`
		Cmd          []string            `json:"Cmd,omitempty"`
		Volumes      map[string]struct{} `json:"Volumes,omitempty"`
		WorkingDir   string              `json:"WorkingDir,omitempty"`
		Labels       map[string]string   `json:"Labels,omitempty"`
		StopSignal   string              `json:"StopSignal,omitempty"`
	} `json:"config,omitzero"`
}

// Platform returns what the image runs on.
func (c *Config) Platform() oci.Platform {
	return oci.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion}
}

// CreatedAt returns when the image was made; zero if the configuration does not say.
func (c *Config) CreatedAt() time.Time {
	t, _ := time.Parse(time.RFC3339, c.Created)
	return t
}

// Config fetches the configuration that an image's manifest refers to, or returns nil if the
// manifest is an index or the configuration is not of a container image.
func (r *Repository) Config(ctx context.Context, m *oci.Manifest) (*Config, error) {
	if m.IsIndex() || len(m.Blobs) == 0 {
		return nil, nil
	}
	desc := m.Blobs[0]
	if desc.MediaType != mediaTypeConfig && desc.MediaType != mediaTypeDockerConfig {
		return nil, nil
	}
	b, err := r.BlobBytes(ctx, desc, maxConfig)
	if err != nil {
		return nil, err
	}
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, r.fail("read config "+desc.Digest.String(), err)
	}
	return &c, nil
}

// Select fetches the manifest at ref, and from an index goes down to the image for
// the platform. The error tells which platforms there are if it is not among them.
func (r *Repository) Select(ctx context.Context, ref oci.Reference, want oci.Platform) (Manifest, *oci.Manifest, error) {
	for range maxDepth {
		raw, err := r.Manifest(ctx, ref)
		if err != nil {
			return Manifest{}, nil, err
		}
		m, err := oci.ParseManifest(raw.MediaType, raw.Body)
		if err != nil {
			return Manifest{}, nil, r.fail("read manifest "+ref.String(), err)
		}
		if !m.IsIndex() {
			c, err := r.Config(ctx, m)
			if err != nil {
				return Manifest{}, nil, err
			}
			if c == nil {
				return Manifest{}, nil, r.fail("select "+FormatPlatform(want), fmt.Errorf("%s is not a container image, so it has no platform", ref))
			}
			if !MatchPlatform(want, c.Platform()) {
				return Manifest{}, nil, r.fail("select "+FormatPlatform(want), fmt.Errorf("the image is for %s only", Printable(FormatPlatform(c.Platform()))))
			}
			return raw, m, nil
		}
		child, ok := selectPlatform(m.Manifests, want)
		if !ok {
			return Manifest{}, nil, r.fail("select "+FormatPlatform(want), fmt.Errorf("the index has no such platform, only %s", strings.Join(platforms(m.Manifests), ", ")))
		}
		ref = oci.Reference{Digest: child.Digest}
	}
	return Manifest{}, nil, r.fail("select "+FormatPlatform(want), fmt.Errorf("indexes are nested more than %d deep", maxDepth))
}

// platforms lists what the children of an index run on.
func platforms(children []oci.Descriptor) []string {
	var out []string
	for _, c := range children {
		if c.Platform != nil {
			out = append(out, Printable(FormatPlatform(*c.Platform)))
		}
	}
	return out
}
