package model

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/registry"
)

// Times of the registry under test.
const (
	grace  = 4 * time.Hour
	expiry = 6 * time.Hour
	keep   = 48 * time.Hour
)

// outcome is how a change ends.
type outcome string

const (
	done       outcome = "done"
	unknown    outcome = "unknown"
	missing    outcome = "something is missing"
	referenced outcome = "referenced"
	frozen     outcome = "frozen"
	protected  outcome = "protected"
	quota      outcome = "quota"
)

// state is the model. Times are in Unix milliseconds.
type state struct {
	repositories map[oci.Repository]*repository // all there may be; one that holds nothing does not exist
	freezes      map[string]bool                // by organization, empty for all
	protections  []policy.Protection
	retentions   []policy.Retention
	quotas       map[string]meta.Quota
	uploads      []*upload
	ids          int64 // of manifests, in the order in which they came
	known        int64 // since when pulls are noted
}

type repository struct {
	name  oci.Repository
	live  map[*manifest]held
	trash map[*manifest]trashed
	tags  map[oci.Tag]tagged
	// links are the blobs that it has, with the time since when nothing needs them; 0 while something does.
	links map[*blob]int64
	log   map[oci.Tag][]move // of all that ever had the name
}

// ahead stands for any time by the clock of the database, which is decades ahead of that of the steps.
const ahead = math.MaxInt64 / 2

// held is a manifest with the times when it was pushed first and again, when something went that needed it, and when it was pulled.
type held struct{ id, pushed, again, freed, pulled int64 }

type trashed struct {
	id, pushed, pulled, deleted int64
	method                      string
	tags                        []oci.Tag // that it lost, sorted
	pulls                       map[oci.Tag]int64
	needs                       map[*blob]bool // the blobs that were there
}

type tagged struct {
	to             *manifest
	pushed, pulled int64
}

// move is a move of a tag; nil stands for its not being there.
type move struct {
	at       int64
	old, new *manifest
	method   string
}

// upload is a session that has bytes.
type upload struct {
	registry.Session
	blob    *blob
	sent    int
	updated int64
}

func newState() *state {
	s := &state{repositories: make(map[oci.Repository]*repository), freezes: make(map[string]bool), quotas: make(map[string]meta.Quota)}
	for _, name := range repositories {
		s.repositories[name] = &repository{name, make(map[*manifest]held), make(map[*manifest]trashed), make(map[oci.Tag]tagged), make(map[*blob]int64), make(map[oci.Tag][]move)}
	}
	return s
}

func (r *repository) exists() bool { return len(r.live)+len(r.trash)+len(r.links) > 0 }

func (r *repository) organization() string { return access.Organization(r.name) }

func (r *repository) clone() *repository {
	return &repository{r.name, maps.Clone(r.live), maps.Clone(r.trash), maps.Clone(r.tags), maps.Clone(r.links), maps.Clone(r.log)}
}

// usage is what an organization uses.
func (s *state) usage(organization string) (u meta.Usage) {
	once := make(map[*blob]bool)
	for _, r := range s.repositories {
		if r.organization() != organization {
			continue
		}
		if len(r.live) > 0 {
			u.Repositories++
		}
		u.Tags += int64(len(r.tags))
		for m := range r.live {
			u.Bytes += m.size()
			u.Deduplicated += m.size()
		}
		for m := range r.trash {
			u.Bytes += m.size()
			u.Deduplicated += m.size()
		}
		for b := range r.links {
			u.Bytes += b.size()
			if !once[b] {
				u.Deduplicated += b.size()
			}
			once[b] = true
		}
	}
	return u
}

// exceeded tells whether what has been added since is more than a quota has room for.
func (s *state) exceeded(organization string, before meta.Usage) bool {
	q, ok := s.quotas[organization]
	after := s.usage(organization)
	over := func(limit *int64, before, after int64) bool { return limit != nil && after > *limit && after > before }
	bytes, were := after.Bytes, before.Bytes
	if q.Deduplicated {
		bytes, were = after.Deduplicated, before.Deduplicated
	}
	return ok && (over(q.Bytes, were, bytes) || over(q.Tags, before.Tags, after.Tags) || over(q.Repositories, before.Repositories, after.Repositories))
}

// change makes a change of a repository, all or nothing. Some changes are refused if a quota has no room for them.
func (s *state) change(name oci.Repository, limited bool, do func(*repository) outcome) outcome {
	was := s.repositories[name]
	before := s.usage(was.organization())
	r := was.clone()
	if o := do(r); o != done {
		return o
	}
	s.repositories[name] = r
	if limited && s.exceeded(r.organization(), before) {
		s.repositories[name] = was
		return quota
	}
	return done
}

func (s *state) isFrozen(r *repository) bool { return s.freezes[""] || s.freezes[r.organization()] }

// isProtected tells whether a tag must not move from where it is.
func (s *state) isProtected(r *repository, tag oci.Tag) bool {
	return slices.ContainsFunc(s.protections, func(p policy.Protection) bool {
		return (p.Organization == "" || p.Organization == r.organization()) && p.Repositories.Match(string(r.name)) && p.Tags.Match(tag)
	})
}

// needed tells whether a manifest, or one in the trash, needs a blob that is there.
func (r *repository) needed(b *blob) bool {
	for m := range r.live {
		if slices.Contains(m.blobs, b) {
			return true
		}
	}
	for _, t := range r.trash {
		if t.needs[b] {
			return true
		}
	}
	return false
}

// link gives a repository a blob.
func (r *repository) link(b *blob, now int64) {
	if r.needed(b) {
		now = 0
	}
	r.links[b] = now
}

// release begins the grace period of blobs that nothing needs any more.
func (r *repository) release(of []*blob, now int64) {
	for _, b := range of {
		if since, ok := r.links[b]; ok && since == 0 && !r.needed(b) {
			r.links[b] = now
		}
	}
}

// set points a tag to a manifest, or takes it away.
func (r *repository) set(tag oci.Tag, to *manifest, method string, now int64) {
	was := r.tags[tag]
	if was.to == to {
		if to != nil { // pushed again
			was.pushed = max(was.pushed, now)
			r.tags[tag] = was
		}
		return
	}
	r.free(was.to, now)
	at := now
	if log := r.log[tag]; len(log) > 0 {
		at = max(at, log[len(log)-1].at)
	}
	r.log[tag] = append(r.log[tag], move{at, was.to, to, method})
	if to == nil {
		delete(r.tags, tag)
	} else {
		r.tags[tag] = tagged{to, now, was.pulled}
	}
}

// free notes that something went that needed a manifest.
func (r *repository) free(m *manifest, now int64) {
	if h, ok := r.live[m]; ok {
		h.freed = now
		r.live[m] = h
	}
}

// at returns what a tag pointed to at a time, and since when.
func (r *repository) at(tag oci.Tag, t int64) (to *manifest, since int64) {
	for _, m := range r.log[tag] {
		if m.at <= t {
			to, since = m.new, m.at
		}
	}
	return to, since
}

// tagsOf returns the tags of a manifest, sorted.
func (r *repository) tagsOf(m *manifest) (all []oci.Tag) {
	for tag, t := range r.tags {
		if t.to == m {
			all = append(all, tag)
		}
	}
	slices.Sort(all)
	return all
}

// insert adds a manifest, and takes it out of the trash.
func (r *repository) insert(m *manifest, h held) {
	r.live[m] = h
	delete(r.trash, m)
	for _, b := range m.blobs {
		if _, ok := r.links[b]; ok {
			r.links[b] = 0
		}
	}
}

// push is a push of a manifest.
func (s *state) push(name oci.Repository, m *manifest, tags []oci.Tag, now int64) outcome {
	return s.change(name, true, func(r *repository) outcome {
		if s.isFrozen(r) {
			return frozen
		}
		for _, tag := range tags {
			if was := r.tags[tag].to; was != nil && was != m && s.isProtected(r, tag) {
				return protected
			}
		}
		if h, ok := r.live[m]; ok && len(tags) == 0 {
			h.again = now
			r.live[m] = h
		} else if !ok {
			for _, b := range m.blobs {
				if _, ok := r.links[b]; !ok && b != m.foreign && sparse(name) != registry.SparseAll {
					return missing
				}
			}
			for _, c := range m.children {
				if _, ok := r.live[c]; !ok && sparse(name) == registry.SparseNone {
					return missing
				}
			}
			s.ids++
			r.insert(m, held{id: s.ids, pushed: now})
		}
		for _, tag := range tags {
			r.set(tag, m, "push", now)
		}
		return done
	})
}

// drop deletes a manifest with its tags.
func (r *repository) drop(m *manifest, trash bool, method string, now int64) {
	lost, pulls := r.tagsOf(m), make(map[oci.Tag]int64)
	for _, tag := range lost {
		pulls[tag] = r.tags[tag].pulled
		r.set(tag, nil, method, now)
	}
	h := r.live[m]
	delete(r.live, m)
	for one := range r.live {
		if slices.Contains(m.children, one) || one.subject == m {
			r.free(one, now)
		}
	}
	if trash {
		needs := make(map[*blob]bool)
		for _, b := range m.blobs {
			if _, ok := r.links[b]; ok {
				needs[b] = true
			}
		}
		r.trash[m] = trashed{h.id, h.pushed, h.pulled, now, method, lost, pulls, needs}
	}
	r.release(m.blobs, now)
}

func (s *state) deleteManifest(name oci.Repository, m *manifest, trash bool, now int64) outcome {
	return s.change(name, false, func(r *repository) outcome {
		if _, ok := r.live[m]; !ok {
			return unknown
		}
		return s.dropAll(r, []*manifest{m}, trash, now)
	})
}

// dropAll deletes manifests, unless policies forbid it for one of them.
func (s *state) dropAll(r *repository, all []*manifest, trash bool, now int64) outcome {
	if s.isFrozen(r) {
		return frozen
	}
	for _, m := range all {
		for _, tag := range r.tagsOf(m) {
			if s.isProtected(r, tag) {
				return protected
			}
		}
		r.drop(m, trash, "delete", now)
	}
	return done
}

// deleteAll deletes all manifests of a repository.
func (s *state) deleteAll(name oci.Repository, trash bool, now int64) outcome {
	return s.change(name, false, func(r *repository) outcome {
		if !r.exists() {
			return done
		}
		return s.dropAll(r, r.manifests(), trash, now)
	})
}

// manifests returns the manifests, the first pushed first.
func (r *repository) manifests() []*manifest {
	return slices.SortedFunc(maps.Keys(r.live), func(a, b *manifest) int { return cmp.Compare(r.live[a].id, r.live[b].id) })
}

func (s *state) deleteTag(name oci.Repository, tag oci.Tag, now int64) outcome {
	return s.change(name, false, func(r *repository) outcome {
		switch {
		case r.tags[tag].to == nil:
			return unknown
		case s.isFrozen(r):
			return frozen
		case s.isProtected(r, tag):
			return protected
		}
		r.set(tag, nil, "delete", now)
		return done
	})
}

func (s *state) pushBlob(name oci.Repository, b *blob, now int64) outcome {
	return s.change(name, true, func(r *repository) outcome {
		r.link(b, now)
		return done
	})
}

// mount links a blob that from has; with an empty from, one that any repository has.
func (s *state) mount(into, from oci.Repository, b *blob, now int64) outcome {
	if !s.has(from, b) {
		return unknown
	}
	return s.pushBlob(into, b, now)
}

// has tells whether a repository, or any if that is empty, has a blob.
func (s *state) has(name oci.Repository, b *blob) bool {
	for _, r := range s.repositories {
		if _, ok := r.links[b]; ok && (name == "" || r.name == name) {
			return true
		}
	}
	return false
}

// touch is a client's question whether a blob is there.
func (s *state) touch(name oci.Repository, b *blob, now int64) outcome {
	r := s.repositories[name]
	since, ok := r.links[b]
	if !ok {
		return unknown
	}
	if since != 0 && now-since > grace.Milliseconds()/4 {
		r.links[b] = now
	}
	return done
}

func (s *state) deleteBlob(name oci.Repository, b *blob, now int64) outcome {
	return s.change(name, false, func(r *repository) outcome {
		if _, ok := r.links[b]; !ok {
			return unknown
		}
		if s.isFrozen(r) {
			return frozen
		}
		for m := range r.live {
			if slices.Contains(m.blobs, b) {
				return referenced
			}
		}
		for m, t := range r.trash {
			if t.needs[b] {
				r.empty(m, now)
			}
		}
		delete(r.links, b)
		return done
	})
}

// empty takes a manifest out of the trash for good.
func (r *repository) empty(m *manifest, now int64) {
	if t, ok := r.trash[m]; ok {
		delete(r.trash, m)
		r.release(slices.Collect(maps.Keys(t.needs)), now)
	}
}

// emptyTrash takes a manifest out of the trash, or all if that is nil.
func (s *state) emptyTrash(name oci.Repository, m *manifest, now int64) outcome {
	return s.change(name, false, func(r *repository) outcome {
		if s.isFrozen(r) {
			return frozen
		}
		for _, one := range slices.Collect(maps.Keys(r.trash)) {
			if m == nil || one == m {
				r.empty(one, now)
			}
		}
		return done
	})
}

// collect is a pass of the collector.
func (s *state) collect(now int64) {
	for _, r := range s.repositories {
		for m, t := range r.trash {
			if t.deleted < now-keep.Milliseconds() {
				r.empty(m, now)
			}
		}
		for b, since := range r.links {
			if since != 0 && since < now-(grace+grace/4).Milliseconds() {
				delete(r.links, b)
			}
		}
	}
	s.uploads = slices.DeleteFunc(s.uploads, func(u *upload) bool { return u.updated < now-expiry.Milliseconds() })
}

// stored returns the blobs that a repository has.
func (s *state) stored() (all []*blob) {
	return slices.DeleteFunc(slices.Clone(blobs), func(b *blob) bool { return !s.has("", b) })
}

// pulled notes that a manifest was pulled, by a tag if that is not empty.
func (s *state) pulled(name oci.Repository, tag oci.Tag, m *manifest, at int64) {
	r := s.repositories[name]
	r.pulledTag(tag, at)
	if h, ok := r.live[m]; ok {
		h.pulled = max(h.pulled, at)
		r.live[m] = h
	}
}

// pulledTag notes that a tag was pulled, if it is there.
func (r *repository) pulledTag(tag oci.Tag, at int64) {
	if t, ok := r.tags[tag]; ok {
		t.pulled = max(t.pulled, at)
		r.tags[tag] = t
	}
}
