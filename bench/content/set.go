//go:build linux

package content

import "fmt"

// Sizes say how much there is of what takes long.
type Sizes struct {
	Big          int64 // bytes of the big blob
	Batch        int   // blobs that are pushed together,
	BatchSize    int64 // and the bytes of each
	Tags         int   // in the repository with many of them
	NewTags      int   // that are added to it
	Repositories int   // where there are many of them
	Large        int   // repositories of the large catalog; 0 for none
	Images       int   // small images to push; each is used once in a run
}

// What is the same whatever the sizes.
const (
	configSize  = 2 << 10
	layerSize   = 16 << 10
	smallImages = 10
	fewTags     = 100
	fewRepos    = 100
	readBlobs   = 1000
	readSize    = 64 << 10
	stormLayers = 4
	stormLayer  = 5 << 20
)

// Part is content that a scenario needs on a server before it begins. Blobs come
// first, then mounts, then manifests.
type Part struct {
	Name      string
	Blobs     []PlacedBlob
	Mounts    []PlacedBlob // from baseRepository, where Blobs has put them
	Manifests []PlacedManifest
}

// PlacedBlob is a blob in a repository.
type PlacedBlob struct {
	Repository string
	Blob
}

// PlacedManifest is a manifest under a tag.
type PlacedManifest struct {
	Repository, Tag string
	Type            string
	Body            []byte
}

// Set is all content. Its parts are made when they are asked for the first time. It is not safe
// for concurrent use.
type Set struct {
	*Maker
	Sizes  Sizes
	parts  map[string]*Part
	images []Image
	batch  []Blob
}

// NewSet returns the content of the given sizes.
func NewSet(sizes Sizes) (*Set, error) {
	m, err := NewMaker()
	if err != nil {
		return nil, err
	}
	return &Set{Maker: m, Sizes: sizes, parts: make(map[string]*Part)}, nil
}

func (s *Set) part(name string, build func(p *Part)) *Part {
	p := s.parts[name]
	if p == nil {
		p = &Part{Name: name}
		build(p)
		s.parts[name] = p
	}
	return p
}

// Small is a repository of a few small images.
func (s *Set) Small() *Part {
	return s.part("a few small images", func(p *Part) {
		for i := range smallImages {
			p.image("bench/small", fmt.Sprintf("v%d", i), s.small(fmt.Sprintf("image %d", i)))
		}
	})
}

// Storm is one image of 20 MiB.
func (s *Set) Storm() *Part {
	return s.part("an image of 20 MiB", func(p *Part) {
		sizes := make([]int64, stormLayers)
		for i := range sizes {
			sizes[i] = stormLayer
		}
		p.image("bench/storm", "latest", s.Image("storm", configSize, sizes...))
	})
}

// ReadBlobs is a repository of blobs of 64 KiB.
func (s *Set) ReadBlobs() *Part {
	return s.part("blobs of 64 KiB", func(p *Part) {
		for i := range readBlobs {
			p.Blobs = append(p.Blobs, PlacedBlob{"bench/blobs", s.Layer(fmt.Sprintf("blob %d", i), readSize)})
		}
	})
}

// Big is one big blob.
func (s *Set) Big() *Part {
	return s.part("a big blob", func(p *Part) {
		p.Blobs = []PlacedBlob{{"bench/big", s.Layer("big", s.Sizes.Big)}}
	})
}

// ManyTags is a repository of many tags, each on a manifest of its own.
func (s *Set) ManyTags() *Part {
	return s.part(fmt.Sprintf("%d tags", s.Sizes.Tags), func(p *Part) { s.tags(p, "bench/tags", s.Sizes.Tags) })
}

// FewTags is ManyTags with 100.
func (s *Set) FewTags() *Part {
	return s.part("100 tags", func(p *Part) { s.tags(p, "bench/few", fewTags) })
}

func (s *Set) tags(p *Part, repository string, n int) {
	img := s.small("of many tags")
	for _, b := range img.Blobs {
		p.Blobs = append(p.Blobs, PlacedBlob{repository, b})
	}
	for i := range n {
		tag := fmt.Sprintf("v%06d", i)
		p.Manifests = append(p.Manifests, PlacedManifest{repository, tag, ManifestType, Manifest(img.Blobs, tag)})
	}
}

// NewTags returns the manifests of tags that the repository of ManyTags does not have, other ones for each run.
func (s *Set) NewTags(run int) []PlacedManifest {
	many := s.ManyTags()
	var blobs []Blob
	for _, b := range many.Blobs {
		blobs = append(blobs, b.Blob)
	}
	out := make([]PlacedManifest, s.Sizes.NewTags)
	for i := range out {
		tag := fmt.Sprintf("new%d-%d", run, i)
		out[i] = PlacedManifest{many.Blobs[0].Repository, tag, ManifestType, Manifest(blobs, tag)}
	}
	return out
}

// ManyRepositories is that many repositories with the same image in each.
func (s *Set) ManyRepositories() *Part {
	return s.part(fmt.Sprintf("%d repositories", s.Sizes.Repositories), func(p *Part) { s.repositories(p, s.Sizes.Repositories) })
}

// FewRepositories is ManyRepositories with 100.
func (s *Set) FewRepositories() *Part {
	return s.part("100 repositories", func(p *Part) { s.repositories(p, fewRepos) })
}

// LargeCatalog is so many repositories that each has an empty index only.
func (s *Set) LargeCatalog() *Part {
	return s.part(fmt.Sprintf("%d repositories", s.Sizes.Large), func(p *Part) {
		for i := range s.Sizes.Large {
			p.Manifests = append(p.Manifests, PlacedManifest{fmt.Sprintf("bench/l%06d", i), "latest", indexType, []byte(emptyIndex)})
		}
	})
}

const emptyIndex = `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`

const baseRepository = "bench/base"

func (s *Set) repositories(p *Part, n int) {
	img := s.Image("of many repositories", configSize, layerSize)
	p.image(baseRepository, "latest", img)
	for i := 1; i < n; i++ {
		repository := fmt.Sprintf("bench/r%06d", i)
		for _, b := range img.Blobs {
			p.Mounts = append(p.Mounts, PlacedBlob{repository, b})
		}
		p.Manifests = append(p.Manifests, PlacedManifest{repository, "latest", ManifestType, img.Manifest})
	}
}

// Images are small images to push.
func (s *Set) Images() []Image {
	for i := len(s.images); i < s.Sizes.Images; i++ {
		s.images = append(s.images, s.small(fmt.Sprintf("pushed image %d", i)))
	}
	return s.images
}

// Batch are blobs to push together.
func (s *Set) Batch() []Blob {
	for i := len(s.batch); i < s.Sizes.Batch; i++ {
		s.batch = append(s.batch, s.Layer(fmt.Sprintf("batch %d", i), s.Sizes.BatchSize))
	}
	return s.batch
}

func (s *Set) small(name string) Image {
	return s.Image(name, configSize, layerSize, layerSize, layerSize)
}

func (p *Part) image(repository, tag string, img Image) {
	for _, b := range img.Blobs {
		p.Blobs = append(p.Blobs, PlacedBlob{repository, b})
	}
	p.Manifests = append(p.Manifests, PlacedManifest{repository, tag, ManifestType, img.Manifest})
}
