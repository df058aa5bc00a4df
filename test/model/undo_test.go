package model

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/berthregistry/berth/internal/oci"
)

// inTrash returns what lies in the trash, the last deleted first.
func (r *repository) inTrash() []*manifest {
	return slices.SortedFunc(maps.Keys(r.trash), func(a, b *manifest) int {
		return cmp.Or(cmp.Compare(r.trash[b].deleted, r.trash[a].deleted), cmp.Compare(r.trash[b].id, r.trash[a].id))
	})
}

// revive takes a manifest out of the trash, if it lies there, with its children and what refers to what comes and was not deleted before it. It returns what came, the manifest first, then
// the last deleted first, and how it lay in the trash.
func (r *repository) revive(m *manifest) (came []*manifest, lost map[*manifest]trashed, ok bool) {
	lost = make(map[*manifest]trashed)
	order := r.inTrash()
	untrash := func(m *manifest) int64 {
		t := r.trash[m]
		lost[m] = t
		r.insert(m, held{id: t.id, pushed: t.pushed, again: ahead, pulled: t.pulled})
		return t.deleted
	}
	type node struct {
		*manifest
		deleted int64
	}
	first := node{m, math.MaxInt64}
	if _, live := r.live[m]; !live {
		if _, ok := r.trash[m]; !ok {
			return nil, nil, false
		}
		first.deleted = untrash(m)
	}
	for open := []node{first}; len(open) > 0; open = open[1:] {
		for _, one := range r.inTrash() {
			if slices.Contains(open[0].children, one) || one.subject == open[0].manifest && r.trash[one].deleted >= open[0].deleted {
				open = append(open, node{one, untrash(one)})
			}
		}
	}
	for _, one := range append([]*manifest{m}, order...) {
		if _, ok := lost[one]; ok && !slices.Contains(came, one) {
			came = append(came, one)
		}
	}
	return came, lost, true
}

// undelete takes a manifest out of the trash with what comes with it, and gives them back the tags that they lost, but for those that are there again.
func (s *state) undelete(name oci.Repository, m *manifest, now int64) outcome {
	return s.change(name, true, func(r *repository) outcome {
		if !r.exists() {
			return unknown
		}
		if s.isFrozen(r) {
			return frozen
		}
		if _, ok := r.trash[m]; !ok {
			return unknown
		}
		came, lost, _ := r.revive(m)
		for _, one := range came {
			for _, tag := range lost[one].tags {
				if r.tags[tag].to == nil {
					r.set(tag, one, "undelete", now)
					r.pulledTag(tag, lost[one].pulls[tag])
				}
			}
		}
		return done
	})
}

// undeleteSince takes all out of the trash that was deleted since a time; 0 stands for the time of the last deletion.
func (s *state) undeleteSince(name oci.Repository, since, now int64) outcome {
	r := s.repositories[name]
	type entry struct {
		*manifest
		deleted int64
	}
	var all []entry
	for _, m := range r.inTrash() {
		all = append(all, entry{m, r.trash[m].deleted})
	}
	if len(all) > 0 && since == 0 {
		since = all[0].deleted
	}
	for _, e := range all {
		if e.deleted < since {
			break
		}
		if o := s.undelete(name, e.manifest, now); o != done && o != unknown {
			return o
		}
	}
	return done
}

// restore sets one tag of a repository to what it was at a time, or before its last move if that is 0.
func (s *state) restore(name oci.Repository, tag oci.Tag, at, now int64) outcome {
	r := s.repositories[name]
	log := r.log[tag]
	if len(log) == 0 {
		return unknown
	}
	to := log[len(log)-1].old
	if at != 0 {
		to, _ = r.at(tag, at)
	}
	switch to {
	case nil:
		return unknown
	case r.tags[tag].to:
		return done
	}
	return s.setBack(name, map[oci.Tag]*manifest{tag: to}, now)
}

// undeleteTag sets a tag that was deleted to what it was.
func (s *state) undeleteTag(name oci.Repository, tag oci.Tag, now int64) outcome {
	r := s.repositories[name]
	log := r.log[tag]
	if len(log) == 0 || log[len(log)-1].new != nil {
		return unknown
	}
	m := log[len(log)-1].old
	_, live := r.live[m]
	_, trashed := r.trash[m]
	switch {
	case r.exists() && s.isFrozen(r):
		return frozen
	case !live && !trashed:
		return unknown
	}
	return s.setBack(name, map[oci.Tag]*manifest{tag: m}, now)
}

// restoreScope sets all tags of the repositories of a scope back to a time, one repository after the other.
func (s *state) restoreScope(scope string, at int64, keepNew bool, now int64) outcome {
	for _, name := range slices.Sorted(maps.Keys(s.repositories)) {
		if !inScope(scope, name) {
			continue
		}
		r := s.repositories[name]
		back := make(map[oci.Tag]*manifest)
		for tag := range r.log {
			if to, _ := r.at(tag, at); to != r.tags[tag].to && !(keepNew && to == nil) {
				back[tag] = to
			}
		}
		if len(back) > 0 {
			if o := s.setBack(name, back, now); o != done {
				return o
			}
		}
	}
	return done
}

func inScope(scope string, name oci.Repository) bool {
	return scope == "" || string(name) == scope || strings.HasSuffix(scope, "/") && strings.HasPrefix(string(name), scope)
}

// setBack sets tags. What policies forbid and what is gone stays as it is.
func (s *state) setBack(name oci.Repository, back map[oci.Tag]*manifest, now int64) outcome {
	return s.change(name, true, func(r *repository) outcome {
		if !r.exists() {
			return done
		}
		if s.isFrozen(r) {
			return frozen
		}
		for _, tag := range slices.Sorted(maps.Keys(back)) {
			to := back[tag]
			if was := r.tags[tag].to; was == to || was != nil && s.isProtected(r, tag) {
				continue
			}
			var pulled int64
			if to != nil {
				_, lost, ok := r.revive(to)
				if !ok {
					continue
				}
				pulled = lost[to].pulls[tag]
			}
			r.set(tag, to, "restore", now)
			r.pulledTag(tag, pulled)
		}
		return done
	})
}
