// Package model drives the registry at random, with every kind of change that there is, and compares it after each step with a model: what must be there, what
// must not, and what can be taken back.
//
// What holds true: the model knows nothing of tables, only of what was promised; names and contents are few, so that states collide; the steps of a
// run follow from its seed alone, and mean something whichever of them are left out, so a failure is told as a short list of steps; time passes only when a step says
// so, so everything that rests on time is compared to the millisecond.
package model

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/registry"
)

// organizations are such that the name of one begins that of the other.
var organizations = []string{"a", "a-b"}

var repositories = []oci.Repository{"a/app", "a/web", "a-b/app", "a-b/lib"}

// sparse says what manifests of a repository may lack.
func sparse(r oci.Repository) registry.Sparse {
	switch r {
	case "a/web":
		return registry.SparseIndex
	case "a-b/lib":
		return registry.SparseAll
	}
	return registry.SparseNone
}

// blob is a blob that there may be.
type blob struct {
	name   string
	bytes  []byte
	digest oci.Digest
}

func (b *blob) size() int64 { return int64(len(b.bytes)) }

// blobs have sizes of which no sum is another one.
var blobs = func() (all []*blob) {
	for i := range 8 {
		bytes := []byte(strings.Repeat(fmt.Sprintf("blob %d ", i), 1<<i))
		all = append(all, &blob{fmt.Sprintf("b%d", i), bytes, oci.DigestBytes(oci.SHA256, bytes)})
	}
	return all
}()

// manifest is a manifest that there may be.
type manifest struct {
	name      string
	mediaType string
	blobs     []*blob
	foreign   *blob // one of them, which may be missing
	children  []*manifest
	subject   *manifest
	body      []byte
	digest    oci.Digest
}

func (m *manifest) size() int64 { return int64(len(m.body)) }

// seal makes the body.
func (m *manifest) seal() *manifest {
	doc := map[string]any{"schemaVersion": 2, "mediaType": m.mediaType, "annotations": map[string]string{"name": m.name}}
	if m.subject != nil {
		doc["subject"] = oci.Descriptor{MediaType: m.subject.mediaType, Digest: m.subject.digest, Size: m.subject.size()}
	}
	if m.mediaType == oci.MediaTypeIndex {
		children := []oci.Descriptor{}
		for _, c := range m.children {
			children = append(children, oci.Descriptor{MediaType: c.mediaType, Digest: c.digest, Size: c.size()})
		}
		doc["manifests"] = children
	} else {
		layers := []oci.Descriptor{}
		for _, b := range m.blobs {
			mediaType := "application/vnd.oci.image.layer.v1.tar"
			if b == m.foreign {
				mediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar"
			}
			layers = append(layers, oci.Descriptor{MediaType: mediaType, Digest: b.digest, Size: b.size()})
		}
		doc["config"], doc["layers"] = layers[0], layers[1:]
	}
	var err error
	if m.body, err = json.Marshal(doc); err != nil {
		panic(err)
	}
	m.digest = oci.DigestBytes(oci.SHA256, m.body)
	return m
}

// manifests are images that share blobs, one of them with a layer that may be missing, artifacts and an index that refer to others, a signature, and indexes that share
// children and contain each other.
var manifests = func() []*manifest {
	image := func(name string, parts ...int) *manifest {
		m := &manifest{name: name, mediaType: oci.MediaTypeImage}
		for _, i := range parts {
			m.blobs = append(m.blobs, blobs[i])
		}
		return m
	}
	index := func(name string, children ...*manifest) *manifest {
		return &manifest{name: name, mediaType: oci.MediaTypeIndex, children: children}
	}
	of := func(subject, m *manifest) *manifest {
		m.subject = subject
		return m.seal()
	}
	one, two, three := image("image1", 0, 1, 2).seal(), image("image2", 0, 1, 3).seal(), image("image3", 4, 2, 5).seal()
	four := image("image4", 0, 6)
	four.foreign = blobs[6]
	four.seal()
	five := image("image5", 3, 7)
	five.mediaType = oci.MediaTypeDockerImage
	five.seal()
	signature := image("signature", 0, 7).seal()
	x1, x2 := index("index1", one, two).seal(), index("index2", two, three).seal()
	x3 := index("index3", x1, four).seal()
	a1 := of(one, image("sbom", 4))
	a2 := of(x1, image("scan", 5, 6))
	a3 := of(a1, image("of sbom", 4))
	x4 := of(two, index("attestations", five))
	return []*manifest{one, two, three, four, five, signature, x1, x2, x3, x4, a1, a2, a3}
}()

func manifestOf(d oci.Digest) *manifest {
	for _, m := range manifests {
		if m.digest == d {
			return m
		}
	}
	return nil
}

// show names a digest, or what has it.
func show(d oci.Digest) string {
	if m := manifestOf(d); m != nil {
		return m.name
	}
	for _, b := range blobs {
		if b.digest == d {
			return b.name
		}
	}
	return d.String()
}

// companion is a tag that is made of the digest of a manifest, which it belongs to.
func companion(m *manifest, suffix string) oci.Tag {
	return oci.Tag("sha256-" + m.digest.Encoded() + suffix)
}

var companions = map[oci.Tag]*manifest{
	companion(manifests[0], ".sig"):  manifests[0],
	companion(manifests[6], ".att"):  manifests[6],
	companion(manifests[1], ""):      manifests[1],
	companion(manifests[5], ".sbom"): manifests[5],
}

var tags = []oci.Tag{"1.0.0", "1.0.1", "1.1.0", "latest",
	companion(manifests[0], ".sig"), companion(manifests[6], ".att"), companion(manifests[1], ""), companion(manifests[5], ".sbom")}

// tagPatterns and repositoryPatterns are what policies are for.
var tagPatterns = func() (all []policy.Tags) {
	for _, texts := range [][]string{{}, {"1.*"}, {"semver"}, {"latest"}, {"!latest"}, {"regex:sha256-.*"}, {"semver:>=1.1"}} {
		t, err := policy.ParseTags(texts)
		if err != nil {
			panic(err)
		}
		all = append(all, t)
	}
	return all
}()

var repositoryPatterns = func() (all []access.Patterns) {
	for _, text := range []string{"", "*/app", "a/*", "a-b/lib"} {
		p, err := access.ParsePatterns(text)
		if err != nil {
			panic(err)
		}
		all = append(all, p)
	}
	return all
}()
