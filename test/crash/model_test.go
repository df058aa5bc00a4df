package crash

import (
	"maps"
	"slices"
	"sync"

	"github.com/berthregistry/berth/internal/oci"
)

// repository is what one client has been told about its repository: exactly that must
// be there. One client at a time works on it.
type repository struct {
	name      string
	born      int // round
	blobs     map[oci.Digest]content
	manifests map[oci.Digest]manifest
	tags      map[string]oci.Digest
	log       map[string][]move // acknowledged moves of each tag
	uploads   []*upload
	never     []oci.Digest // content that must not be there
}

// manifest is a manifest that was pushed.
type manifest struct {
	mediaType string
	body      []byte
	blobs     []oci.Digest
}

// move is one entry of the tag log; a zero digest stands for no tag.
type move struct{ from, to oci.Digest }

// upload is a session that a client has begun and not ended.
type upload struct {
	content  content
	location string
	sent     int // bytes that were acknowledged
	flying   int // bytes that were sent beyond them without an answer
}

func newRepository(name string, round int) *repository {
	return &repository{
		name: name, born: round,
		blobs: make(map[oci.Digest]content), manifests: make(map[oci.Digest]manifest),
		tags: make(map[string]oci.Digest), log: make(map[string][]move),
	}
}

func (r *repository) path(rest string) string { return "/v2/" + r.name + "/" + rest }

// setTag moves a tag, or removes it with the zero digest.
func (r *repository) setTag(tag string, to oci.Digest) {
	from := r.tags[tag]
	if from == to {
		return
	}
	r.log[tag] = append(r.log[tag], move{from, to})
	if to.IsZero() {
		delete(r.tags, tag)
	} else {
		r.tags[tag] = to
	}
}

// deleteManifest removes a manifest and the tags that point to it.
func (r *repository) deleteManifest(d oci.Digest) {
	delete(r.manifests, d)
	for tag, to := range r.tags {
		if to == d {
			r.setTag(tag, oci.Digest{})
		}
	}
}

// needed tells whether a manifest names the blob.
func (r *repository) needed(d oci.Digest) bool {
	for _, m := range r.manifests {
		if slices.Contains(m.blobs, d) {
			return true
		}
	}
	return false
}

func (r *repository) forget(u *upload) {
	r.uploads = slices.DeleteFunc(r.uploads, func(o *upload) bool { return o == u })
}

// market is where clients find blobs of other clients' repositories, to mount.
type market struct {
	mu     sync.Mutex
	offers map[offer]bool
}

type offer struct {
	repository string
	content    content
}

func (m *market) put(r string, c content) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.offers[offer{r, c}] = true
}

func (m *market) withdraw(r string, c content) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.offers, offer{r, c})
}

// withdrawAll forgets what a repository offered.
func (m *market) withdrawAll(r string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.offers, func(o offer, _ bool) bool { return o.repository == r })
}

// any returns some offer of another repository.
func (m *market) any(but string) (offer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for o := range m.offers {
		if o.repository != but {
			return o, true
		}
	}
	return offer{}, false
}
