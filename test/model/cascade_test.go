package model

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// What goes with a tag or a manifest, and what policies of retention let go, said as sets.

// going is what is to be deleted from a repository.
type going struct {
	tags  map[oci.Tag]*manifest
	nodes map[*manifest]bool // may go
}

// belonging returns the tags that are made of a manifest's digest.
func (r *repository) belonging(m *manifest) (all []oci.Tag) {
	for tag, of := range companions {
		if of == m && r.tags[tag].to != nil {
			all = append(all, tag)
		}
	}
	return all
}

// dependents returns the indexes that have a manifest, and what refers to it.
func (r *repository) dependents(m *manifest) (all []*manifest) {
	for one := range r.live {
		if slices.Contains(one.children, m) || one.subject == m {
			all = append(all, one)
		}
	}
	return all
}

// settle keeps what something needs that stays, and what belongs to what is kept. Of a manifest with its children, its subject, its referrers and what is kept under
// tags made of its digest, all stay if one does.
func (r *repository) settle(g going) {
	kept := make(map[*manifest]bool)
	var stay func(*manifest)
	stay = func(m *manifest) {
		if !g.nodes[m] || kept[m] {
			return
		}
		kept[m] = true
		for _, tag := range r.belonging(m) {
			delete(g.tags, tag)
		}
		for _, one := range r.around(m) {
			stay(one)
		}
		if m.subject != nil {
			stay(m.subject)
		}
	}
	var all []*manifest
	for m := range g.nodes {
		elsewhere := slices.ContainsFunc(r.dependents(m), func(d *manifest) bool { return !g.nodes[d] })
		tagged := slices.ContainsFunc(r.tagsOf(m), func(tag oci.Tag) bool { return g.tags[tag] != m })
		beside := slices.ContainsFunc(r.belonging(m), func(tag oci.Tag) bool { return g.tags[tag] == nil })
		if elsewhere || tagged || beside {
			all = append(all, m)
		}
	}
	for _, m := range all {
		stay(m)
	}
	maps.DeleteFunc(g.nodes, func(m *manifest, _ bool) bool { return kept[m] })
}

// cascade deletes a tag, or a manifest with its tags if that is empty, with all that is there for it alone.
func (s *state) cascade(name oci.Repository, tag oci.Tag, m *manifest, trash bool, now int64) (outcome, going) {
	g := going{make(map[oci.Tag]*manifest), make(map[*manifest]bool)}
	return s.change(name, false, func(r *repository) outcome {
		if tag != "" {
			m = r.tags[tag].to
		}
		switch _, ok := r.live[m]; {
		case !r.exists():
			return unknown
		case s.isFrozen(r):
			return frozen
		case !ok:
			return unknown
		}
		for _, t := range r.tagsOf(m) {
			if tag == "" || t == tag {
				g.tags[t] = m
			}
		}
		var add func(*manifest)
		add = func(m *manifest) {
			if _, ok := r.live[m]; !ok || g.nodes[m] {
				return
			}
			g.nodes[m] = true
			for _, tag := range r.belonging(m) {
				if !s.isProtected(r, tag) {
					g.tags[tag] = r.tags[tag].to
				}
			}
			for _, one := range r.around(m) {
				add(one)
			}
		}
		add(m)
		r.settle(g)
		for tag := range g.tags {
			if s.isProtected(r, tag) {
				return protected
			}
		}
		r.dropGoing(g, trash, "delete", now)
		return done
	}), g
}

func (r *repository) dropGoing(g going, trash bool, method string, now int64) {
	for m := range g.nodes {
		r.drop(m, trash, method, now)
	}
	for tag := range g.tags {
		r.set(tag, nil, method, now)
	}
}

// retain lets policies of retention delete what they do not keep, at most so many tags and manifests. What a manifest takes along that nothing else takes along goes with it at
// once, or not at all; but of what is more than the limit, tags go before, all but the last one.
func (s *state) retain(limit int, trash bool, now int64) {
	left := limit
	for _, name := range slices.Sorted(maps.Keys(s.repositories)) {
		r := s.repositories[name]
		g := going{make(map[oci.Tag]*manifest), make(map[*manifest]bool)}
		enough := false
		for _, group := range r.groups(s.dropped(r, now)) {
			n, tags := len(group), 0
			for _, l := range group {
				if l.tag != "" {
					tags++
				}
			}
			if n > left {
				n = 0
				if len(group) > limit && tags > 1 {
					n = min(left, tags-1)
				}
				enough = left == 0 || len(group) <= limit
			}
			left -= n
			for _, l := range group[:n] {
				if l.tag != "" {
					g.tags[l.tag] = l.manifest
				} else {
					g.nodes[l.manifest] = true
				}
			}
			if enough {
				break
			}
		}
		maps.DeleteFunc(g.tags, func(tag oci.Tag, _ *manifest) bool {
			of := companions[tag]
			_, live := r.live[of]
			return live && !g.nodes[of]
		})
		r.settle(g)
		r.dropGoing(g, trash, "retention", now)
		if enough {
			return
		}
	}
}

// line is a line of a plan: a tag, or without one a manifest.
type line struct {
	tag oci.Tag
	*manifest
}

// groups puts what goes in the order of a plan: what is led by what was pushed last goes first, tags before manifests.
func (r *repository) groups(tags map[oci.Tag]*manifest, gone map[*manifest]bool) (all [][]line) {
	id := func(m *manifest) int64 { return r.live[m].id }
	leaders := make(map[*manifest]*manifest)
	led := make(map[*manifest]bool) // taken along by something else
	for m := range gone {
		for _, one := range r.around(m) {
			led[one] = true
		}
	}
	for m := range gone {
		if led[m] {
			continue
		}
		seen := make(map[*manifest]bool)
		var take func(*manifest)
		take = func(one *manifest) {
			if seen[one] || !gone[one] {
				return
			}
			seen[one] = true
			if leaders[one] == nil || id(m) < id(leaders[one]) {
				leaders[one] = m
			}
			for _, next := range r.around(one) {
				take(next)
			}
		}
		take(m)
	}
	for m := range gone {
		leaders[m] = cmp.Or(leaders[m], m) // in a circle
	}
	by := make(map[*manifest][]line)
	for tag, m := range tags {
		leader := cmp.Or(leaders[companions[tag]], leaders[m], m)
		by[leader] = append(by[leader], line{tag, m})
	}
	for m, leader := range leaders {
		by[leader] = append(by[leader], line{"", m})
	}
	kind := func(l line) int { return map[bool]int{true: 1}[l.tag == ""] }
	for _, leader := range slices.SortedFunc(maps.Keys(by), func(a, b *manifest) int { return cmp.Compare(id(b), id(a)) }) {
		slices.SortFunc(by[leader], func(a, b line) int {
			return cmp.Or(cmp.Compare(kind(a), kind(b)), cmp.Compare(id(b.manifest), id(a.manifest)), cmp.Compare(a.tag, b.tag))
		})
		all = append(all, by[leader])
	}
	return all
}

// dropped is what policies let go.
func (s *state) dropped(r *repository, now int64) (map[oci.Tag]*manifest, map[*manifest]bool) {
	tags, gone := make(map[oci.Tag]*manifest), make(map[*manifest]bool)
	var mine []policy.Retention
	var untagged, lately time.Duration
	for _, p := range s.retentions {
		if (p.Organization == "" || p.Organization == access.Organization(r.name)) && p.Repositories.Match(string(r.name)) {
			mine = append(mine, p)
			untagged, lately = max(untagged, p.Rules.Untagged), max(lately, p.Rules.Pulled)
		}
	}
	if len(mine) == 0 || s.isFrozen(r) {
		return tags, gone
	}
	belongs := func(tag oci.Tag) *manifest {
		if _, ok := r.live[companions[tag]]; ok {
			return companions[tag]
		}
		return nil
	}
	kept := make(map[oci.Tag]bool)
	for tag := range r.tags {
		if s.isProtected(r, tag) || belongs(tag) == nil && s.keeps(r, tag, mine, belongs, now) {
			kept[tag] = true
		}
	}
	// What may go, and then what stays after all. A child or a subject that is not there stands between what names it and what refers to it, too.
	var may func(*manifest)
	may = func(m *manifest) {
		if gone[m] {
			return
		}
		gone[m] = true
		for _, one := range r.around(m) {
			may(one)
		}
	}
	for tag, t := range r.tags {
		if !kept[tag] && belongs(tag) == nil {
			may(t.to)
		}
	}
	within := func(at int64, d time.Duration) bool { return d > 0 && at != 0 && at >= now-d.Milliseconds() }
	for m, h := range r.live {
		if untagged > 0 && len(r.tagsOf(m)) == 0 && max(h.pushed, h.again, h.freed, h.pulled, s.known) < now-untagged.Milliseconds() {
			may(m)
		}
	}
	// What was pushed again lately may be for an index that is to come: it stays, and what would take it along, with its tags.
	waits := make(map[*manifest]bool)
	var wait func(*manifest)
	wait = func(m *manifest) {
		if _, live := r.live[m]; !live || waits[m] || !gone[m] {
			return
		}
		waits[m] = true
		for one := range r.live {
			if slices.Contains(r.around(one), m) {
				wait(one)
			}
		}
	}
	for m, h := range r.live {
		if within(h.again, time.Hour) {
			wait(m)
		}
	}
	for tag, t := range r.tags {
		if belongs(tag) == nil && waits[t.to] {
			kept[tag] = true
		}
	}
	stays := make(map[*manifest]bool)
	var stay func(*manifest)
	stay = func(m *manifest) {
		if stays[m] {
			return
		}
		stays[m] = true
		for _, one := range r.around(m) {
			stay(one)
		}
		if _, ok := r.live[m]; ok && m.subject != nil {
			stay(m.subject)
		}
	}
	for m, h := range r.live {
		if !gone[m] || waits[m] || within(max(h.pulled, s.known), lately) {
			stay(m)
		}
	}
	for tag, t := range r.tags {
		if kept[tag] {
			stay(t.to)
			if of := belongs(tag); of != nil {
				stay(of)
			}
		}
	}
	maps.DeleteFunc(gone, func(m *manifest, _ bool) bool {
		_, live := r.live[m]
		return stays[m] || !live
	})
	for tag, t := range r.tags {
		of := belongs(tag)
		if !kept[tag] && (of == nil || gone[of]) {
			tags[tag] = t.to
		}
	}
	return tags, gone
}

// around returns what is there for a manifest: its children, what refers to it, and what belongs to it.
func (r *repository) around(m *manifest) (all []*manifest) {
	if _, ok := r.live[m]; ok {
		all = append(all, m.children...)
		for _, tag := range r.belonging(m) {
			all = append(all, r.tags[tag].to)
		}
	}
	for _, d := range r.dependents(m) {
		if d.subject == m {
			all = append(all, d)
		}
	}
	return all
}

// keeps tells whether a rule keeps a tag, or none is for it.
func (s *state) keeps(r *repository, tag oci.Tag, mine []policy.Retention, belongs func(oci.Tag) *manifest, now int64) bool {
	t := r.tags[tag]
	matched := false
	for _, p := range mine {
		if !p.Rules.KeepsTags() || !p.Tags.Match(tag) {
			continue
		}
		matched = true
		var others []oci.Tag
		for other := range r.tags {
			if belongs(other) == nil && p.Tags.Match(other) {
				others = append(others, other)
			}
		}
		newer := 0 // how many were pushed later
		for _, o := range others {
			if cmp.Or(cmp.Compare(r.tags[o].pushed, t.pushed), cmp.Compare(o, tag)) > 0 {
				newer++
			}
		}
		switch {
		case p.Rules.Pushed > 0 && t.pushed >= now-p.Rules.Pushed.Milliseconds():
			return true
		case p.Rules.Pulled > 0 && max(t.pulled, t.pushed, s.known) >= now-p.Rules.Pulled.Milliseconds():
			return true
		case newer < p.Rules.Newest:
			return true
		case latestPatch(tag, others, p.Rules.Minors):
			return true
		}
	}
	return !matched
}

// latestPatch tells whether a tag is the latest patch of one of the last n minor versions.
func latestPatch(tag oci.Tag, others []oci.Tag, n int) bool {
	v := policy.Version(tag)
	if v == nil {
		return false
	}
	later := make(map[[2]uint64]bool) // minor versions
	for _, o := range others {
		switch w := policy.Version(o); {
		case w == nil:
		case w.Major() == v.Major() && w.Minor() == v.Minor():
			if w.Patch() > v.Patch() {
				return false
			}
		case w.GreaterThan(v):
			later[[2]uint64{w.Major(), w.Minor()}] = true
		}
	}
	return len(later) < n
}
