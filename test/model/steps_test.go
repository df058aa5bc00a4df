package model

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/admin"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/retention"
)

// step is a kind of change, and the numbers that say which. What they stand for depends on what is there, so that a step means something wherever it comes.
type step struct {
	kind    int
	numbers [8]uint32
}

func (s step) n(i, n int) int            { return int(s.numbers[i] % uint32(n)) }
func (s step) repo() oci.Repository      { return repositories[s.n(0, len(repositories))] }
func (s step) blob() *blob               { return blobs[s.n(1, len(blobs))] }
func (s step) manifest() *manifest       { return manifests[s.n(2, len(manifests))] }
func (s step) tag() oci.Tag              { return tags[s.n(3, len(tags))] }
func (s step) trash() bool               { return s.n(7, 5) != 0 } // seldom the registry keeps no trash
func (s step) oneIn(i, n int) bool       { return s.numbers[i]>>8%uint32(n) == 0 }
func (s step) organization(i int) string { return append([]string{""}, organizations...)[s.n(i, 3)] }

// scope is a repository, an organization, everything, or the beginning of nothing.
func (s step) scope() string {
	return []string{"", "a/", "a-b/", "c/", string(s.repo()), string(s.repo())}[s.n(4, 6)]
}

// kinds are the kinds of steps, and how often they come.
var kinds = []struct {
	name  string
	often int
	do    func(*world, step)
}{
	{"push", 32, (*world).stepPush},
	{"push blob", 4, (*world).stepBlob},
	{"mount", 5, (*world).stepMount},
	{"ask", 3, (*world).stepAsk},
	{"upload", 2, (*world).stepUpload},
	{"finish", 2, (*world).stepFinish},
	{"pull", 4, (*world).stepPull},
	{"delete tag", 5, (*world).stepDeleteTag},
	{"delete manifest", 8, (*world).stepDeleteManifest},
	{"delete blob", 4, (*world).stepDeleteBlob},
	{"delete repository", 2, (*world).stepDeleteRepository},
	{"cascade", 6, (*world).stepCascade},
	{"undelete", 7, (*world).stepUndelete},
	{"undelete tag", 3, (*world).stepUndeleteTag},
	{"undelete repository", 3, (*world).stepUndeleteSince},
	{"restore", 4, (*world).stepRestore},
	{"restore scope", 3, (*world).stepRestoreScope},
	{"empty trash", 2, (*world).stepEmptyTrash},
	{"retain", 3, (*world).stepRetain},
	{"policy", 5, (*world).stepPolicy},
	{"no policy", 9, (*world).stepNoPolicy},
	{"collect", 5, (*world).stepCollect},
	{"wait", 8, (*world).stepWait},
}

var often = func() (all []int) {
	for i, k := range kinds {
		all = append(all, slices.Repeat([]int{i}, k.often)...)
	}
	return all
}()

func newStep(rng *rand.Rand) step {
	s := step{kind: often[rng.IntN(len(often))]}
	for i := range s.numbers {
		s.numbers[i] = rng.Uint32()
	}
	return s
}

// at is a time about which something is asked: often that of a move, or just before or after it.
func (w *world) at(s step) int64 {
	var times []int64
	for _, log := range w.repositories[s.repo()].log {
		for _, m := range log {
			times = append(times, m.at)
		}
	}
	slices.Sort(times)
	at := now() - int64(s.n(6, int(time.Hour.Milliseconds())))
	if len(times) > 0 && !s.oneIn(6, 5) {
		i := max(0, len(times)-1-s.n(5, 40)) // mostly one of late
		if s.oneIn(5, 4) {
			i = s.n(5, len(times))
		}
		at = times[i] + int64(s.n(6, 3)) - 1
	}
	return min(at, now())
}

func sent(b []byte) registry.Body {
	return registry.Body{Reader: bytes.NewReader(b), First: -1, Length: int64(len(b)), Interrupt: func() {}}
}

var actor = registry.Actor{Name: "ann"}

// stepPush pushes a manifest, mostly with all that it needs.
func (w *world) stepPush(s step) {
	m, r := s.manifest(), s.repo()
	var to []oci.Tag
	switch s.n(4, 6) {
	case 0:
	case 1:
		to = []oci.Tag{s.tag(), tags[s.n(5, len(tags))]}
	case 2: // a signature, where signatures are
		to = []oci.Tag{tags[4+s.n(5, len(companions))]}
	default:
		to = []oci.Tag{tags[s.n(3, 4)]}
	}
	if !s.oneIn(4, 6) {
		w.fill(r, m)
	}
	w.push(r, m, to, s.oneIn(5, 2))
}

// fill pushes what a manifest needs and is not there.
func (w *world) fill(r oci.Repository, m *manifest) {
	for _, b := range m.blobs {
		if _, ok := w.repositories[r].links[b]; !ok && b != m.foreign {
			w.putBlob(r, b)
		}
	}
	for _, c := range m.children {
		if _, ok := w.repositories[r].live[c]; !ok {
			w.fill(r, c)
			w.push(r, c, nil, false)
		}
	}
}

// push pushes a manifest under some tags, by digest or by the first tag.
func (w *world) push(r oci.Repository, m *manifest, to []oci.Tag, byTag bool) {
	p := registry.Push{Repository: r, Reference: oci.Reference{Digest: m.digest}, Tags: to, ContentType: m.mediaType, Body: m.body, Actor: actor}
	if byTag && len(to) > 0 {
		p.Reference, p.Tags = oci.Reference{Tag: to[0]}, to[1:]
	}
	_, err := w.registries[0].PutManifest(w.ctx, p)
	w.same(fmt.Sprintf("push %s to %s as %v", m.name, r, to), w.state.push(r, m, to, now()), of(err))
}

func (w *world) putBlob(r oci.Repository, b *blob) {
	err := w.registries[0].PutBlob(w.ctx, r, b.digest, sent(b.bytes))
	w.same(fmt.Sprintf("push %s to %s", b.name, r), w.state.pushBlob(r, b, now()), of(err))
}

func (w *world) stepBlob(s step) {
	w.putBlob(s.repo(), s.blob())
}

func (w *world) stepMount(s step) {
	from := append([]oci.Repository{""}, repositories...)[s.n(4, len(repositories)+1)]
	ok, err := w.registries[0].MountBlob(w.ctx, s.repo(), from, s.blob().digest)
	got := of(err)
	if err == nil && !ok {
		got = unknown
	}
	w.same(fmt.Sprintf("mount %s from %q into %s", s.blob().name, from, s.repo()), w.state.mount(s.repo(), from, s.blob(), now()), got)
}

func (w *world) stepAsk(s step) {
	_, err := w.registries[0].CheckBlob(w.ctx, s.repo(), s.blob().digest)
	w.same(fmt.Sprintf("ask %s for %s", s.repo(), s.blob().name), w.state.touch(s.repo(), s.blob(), now()), of(err))
}

// stepUpload sends a part of a blob.
func (w *world) stepUpload(s step) {
	if len(w.uploads) > 3 {
		return
	}
	u := &upload{blob: s.blob(), sent: 1 + s.n(4, len(s.blob().bytes)-1), updated: now()}
	u.Session = w.registries[0].StartUpload(s.repo(), oci.SHA256, 0)
	_, err := w.registries[0].AppendUpload(w.ctx, u.Session, sent(u.blob.bytes[:u.sent]))
	w.same(fmt.Sprintf("upload the beginning of %s to %s", u.blob.name, s.repo()), done, of(err))
	w.uploads = append(w.uploads, u)
}

// stepFinish sends the rest, or wrong bytes.
func (w *world) stepFinish(s step) {
	if len(w.uploads) == 0 {
		return
	}
	i := s.n(4, len(w.uploads))
	u := w.uploads[i]
	w.uploads = slices.Delete(w.uploads, i, i+1)
	r := u.Repository
	if s.oneIn(4, 5) {
		w.same(fmt.Sprintf("cancel the upload of %s to %s", u.blob.name, r), done, of(w.registries[0].CancelUpload(w.ctx, u.Session)))
		return
	}
	err := w.registries[0].FinishUpload(w.ctx, u.Session, u.blob.digest, sent(u.blob.bytes[u.sent:]))
	w.same(fmt.Sprintf("finish the upload of %s to %s", u.blob.name, r), w.state.pushBlob(r, u.blob, now()), of(err))
}

func (w *world) stepPull(s step) {
	r := w.repositories[s.repo()]
	p := meta.Pull{Repository: r.name, Digest: s.manifest().digest, At: time.Now().Add(-time.Duration(s.n(4, 3)) * time.Minute)}
	m := s.manifest()
	if t, ok := r.tags[s.tag()]; ok {
		p.Tag, p.Digest, m = s.tag(), t.to.digest, t.to
	}
	w.same(fmt.Sprintf("pull %s:%s@%s", r.name, p.Tag, m.name), done, of(w.db.NotePulls(w.ctx, []meta.Pull{p})))
	w.state.pulled(r.name, p.Tag, m, p.At.UnixMilli())
}

func (w *world) stepDeleteTag(s step) {
	err := w.registries[with(s.trash())].DeleteManifest(w.ctx, s.repo(), oci.Reference{Tag: s.tag()}, actor, nil)
	w.same(fmt.Sprintf("delete tag %s:%s", s.repo(), s.tag()), w.state.deleteTag(s.repo(), s.tag(), now()), of(err))
}

func (w *world) stepDeleteManifest(s step) {
	err := w.registries[with(s.trash())].DeleteManifest(w.ctx, s.repo(), oci.Reference{Digest: s.manifest().digest}, actor, nil)
	w.same(fmt.Sprintf("delete %s@%s, trash: %t", s.repo(), s.manifest().name, s.trash()), w.state.deleteManifest(s.repo(), s.manifest(), s.trash(), now()), of(err))
}

func (w *world) stepDeleteBlob(s step) {
	err := w.registries[with(s.trash())].DeleteBlob(w.ctx, s.repo(), s.blob().digest, actor)
	w.same(fmt.Sprintf("delete blob %s of %s", s.blob().name, s.repo()), w.state.deleteBlob(s.repo(), s.blob(), now()), of(err))
}

// stepDeleteRepository deletes all of a repository, by the API or in the name of a deletion that began earlier.
func (w *world) stepDeleteRepository(s step) {
	name := s.repo()
	what := fmt.Sprintf("delete repository %s, trash: %t", name, s.trash())
	if s.oneIn(4, 2) {
		at := now() - int64(s.n(5, 3))*time.Minute.Milliseconds()
		_, err := w.registries[with(s.trash())].DeleteManifests(w.ctx, name, 1<<60, 100, timeOf(at), actor, nil)
		w.same(fmt.Sprintf("%s since %s", what, timeOf(at)), w.state.deleteAll(name, s.trash(), at), of(err))
		return
	}
	var c admin.Contents
	if o := w.call(s.trash(), "GET", "contents/"+string(name), nil, nil, &c); o != done {
		w.same(what, map[bool]outcome{false: unknown}[w.repositories[name].exists()], o)
		return
	}
	var d admin.Deletion
	got := w.call(s.trash(), "DELETE", "repositories/"+string(name), url.Values{"through": {fmt.Sprint(c.Through)}}, nil, &d)
	w.same(what, w.state.deleteAll(name, s.trash(), now()), got)
}

// stepCascade deletes what a plan says.
func (w *world) stepCascade(s step) {
	name, query := s.repo(), url.Values{}
	var tag oci.Tag
	if s.oneIn(3, 2) {
		tag = s.tag()
		query.Set("tag", string(tag))
	} else {
		query.Set("digest", s.manifest().digest.String())
	}
	var plan, did admin.Cascade
	got := w.call(s.trash(), "GET", "cascade/"+string(name), query, nil, &plan)
	if got == done {
		var order admin.CascadeOrder
		for _, t := range plan.Tags {
			order.Tags = append(order.Tags, admin.OrderedTag{CascadeTag: t})
		}
		for _, m := range plan.Manifests {
			order.Manifests = append(order.Manifests, admin.OrderedManifest{Digest: m.Digest})
		}
		got = w.call(s.trash(), "POST", "cascade/"+string(name), nil, order, &did)
	}
	want, g := w.state.cascade(name, tag, s.manifest(), s.trash(), now())
	w.same(fmt.Sprintf("delete %s:%s@%s with all that is there for it, trash: %t", name, tag, s.manifest().name, s.trash()), want, got)
	if got != done {
		return
	}
	wanted := make(lines)
	for tag, m := range g.tags {
		wanted.add("tag %s %s", tag, m.name)
	}
	for m := range g.nodes {
		wanted.add("manifest %s", m.name)
	}
	for _, c := range []admin.Cascade{plan, did} {
		gone := make(lines)
		for _, t := range c.Tags {
			gone.add("tag %s %s", t.Tag, show(t.Digest))
		}
		for _, m := range c.Manifests {
			gone.add("manifest %s", show(m.Digest))
		}
		compare(wanted, gone)
	}
}

func (w *world) stepUndelete(s step) {
	name, m := s.repo(), s.manifest()
	if in := w.repositories[name].inTrash(); len(in) > 0 && !s.oneIn(2, 5) {
		m = in[s.n(2, len(in))]
	}
	var got outcome
	if s.oneIn(4, 2) {
		got = w.call(true, "POST", "trash/undelete", nil, admin.UndeleteOrder{Repository: string(name), Digest: m.digest.String()}, nil)
	} else {
		_, err := w.registries[0].Undelete(w.ctx, name, m.digest, actor, nil)
		got = of(err)
	}
	w.same(fmt.Sprintf("undelete %s@%s", name, m.name), w.state.undelete(name, m, now()), got)
}

func (w *world) stepUndeleteTag(s step) {
	got := w.call(true, "POST", "trash/undelete", nil, admin.UndeleteOrder{Repository: string(s.repo()), Tag: string(s.tag())}, nil)
	w.same(fmt.Sprintf("undelete %s:%s", s.repo(), s.tag()), w.state.undeleteTag(s.repo(), s.tag(), now()), got)
}

func (w *world) stepUndeleteSince(s step) {
	o := admin.UndeleteOrder{Repository: string(s.repo())}
	var since int64
	if s.oneIn(4, 2) {
		since = w.at(s)
		o.Since = timeOf(since).Format(time.RFC3339Nano)
	}
	got := w.call(true, "POST", "trash/undelete", nil, o, nil)
	w.same(fmt.Sprintf("undelete all of %s since %q", s.repo(), o.Since), w.state.undeleteSince(s.repo(), since, now()), got)
}

func (w *world) stepRestore(s step) {
	o := admin.RestoreOrder{Scope: string(s.repo()), Tag: string(s.tag())}
	var at int64
	if !s.oneIn(4, 3) {
		at = w.at(s)
		o.At = timeOf(at).Format(time.RFC3339Nano)
	}
	got := w.call(true, "POST", "history/restore", nil, o, nil)
	w.same(fmt.Sprintf("restore %s:%s to %q", s.repo(), s.tag(), o.At), w.state.restore(s.repo(), s.tag(), at, now()), got)
}

func (w *world) stepRestoreScope(s step) {
	at := w.at(s)
	o := admin.RestoreOrder{Scope: s.scope(), At: timeOf(at).Format(time.RFC3339Nano), KeepNew: s.oneIn(7, 3)}
	got := w.call(true, "POST", "history/restore", nil, o, nil)
	w.same(fmt.Sprintf("restore all of %q to %s, keep new tags: %t", o.Scope, o.At, o.KeepNew), w.state.restoreScope(o.Scope, at, o.KeepNew, now()), got)
}

func (w *world) stepEmptyTrash(s step) {
	o := admin.EmptyOrder{Scope: s.scope()}
	var m *manifest
	if o.Scope != "" && !strings.HasSuffix(o.Scope, "/") && s.oneIn(2, 2) {
		m = s.manifest()
		o.Digest = m.digest.String()
	}
	got := w.call(s.trash(), "POST", "trash/empty", nil, o, nil)
	want := done
	for _, name := range slices.Sorted(maps.Keys(w.repositories)) {
		if want == done && inScope(o.Scope, name) && len(w.repositories[name].trash) > 0 {
			want = w.state.emptyTrash(name, m, now())
		}
	}
	w.same(fmt.Sprintf("empty the trash of %q, %s", o.Scope, nameOf(m)), want, got)
}

func (w *world) stepRetain(s step) {
	limit := []int{1, 3, all, all}[s.n(4, 4)]
	_, err := retention.Run(w.ctx, w.db, retention.Options{Origin: meta.Origin{Actor: "retention", Method: "retention", Trash: s.trash()}, Limit: limit, Now: time.Now()})
	w.same(fmt.Sprintf("retain, at most %d, trash: %t", limit, s.trash()), done, of(err))
	w.state.retain(limit, s.trash(), now())
}

// stepPolicy sets a policy.
func (w *world) stepPolicy(s step) {
	organization := s.organization(1)
	patterns, matching := repositoryPatterns[s.n(2, len(repositoryPatterns))], tagPatterns[s.n(3, len(tagPatterns))]
	switch s.n(4, 6) {
	case 0:
		w.same("freeze "+organization, done, of(w.db.SetFreeze(w.ctx, &meta.Freeze{Freeze: policy.Freeze{Organization: organization, Message: "no"}, By: "ann", Since: time.Now()})))
		w.freezes[organization] = true
	case 1:
		p := meta.Protection{Protection: policy.Protection{Organization: organization, Repositories: patterns, Tags: matching}, By: "ann", Created: time.Now()}
		w.same("protect "+p.Protection.String(), done, of(w.db.AddProtection(w.ctx, &p)))
		w.protections = append(w.protections, p.Protection)
	case 2, 3:
		if organization == "" {
			organization = "a"
		}
		w.setQuota(s, organization)
	default:
		units := []time.Duration{0, 0, time.Second, time.Minute, time.Hour, keep}
		rules := policy.Rules{Newest: s.n(5, 4), Pushed: units[s.n(6, 6)], Pulled: units[s.n(7, 6)], Minors: s.n(0, 3), Untagged: units[s.n(5, 6)]}
		if rules.Check() != nil {
			rules.Newest = 2
		}
		p := meta.Retention{Retention: policy.Retention{Organization: organization, Repositories: patterns, Tags: matching, Rules: rules}, By: "ann", Created: time.Now()}
		w.same(fmt.Sprintf("retention of %q %v %s: %s", organization, patterns, matching, rules), done, of(w.db.AddRetention(w.ctx, &p)))
		w.retentions = append(w.retentions, p.Retention)
	}
}

// setQuota sets a quota that is about what is used.
func (w *world) setQuota(s step, organization string) {
	u := w.usage(organization)
	q := meta.Quota{Organization: organization, Deduplicated: s.oneIn(5, 2), Warn: 80}
	limit := func(n int64) *int64 { n = max(n, 0); return &n }
	switch s.n(5, 4) {
	case 0:
		q.Tags = limit(u.Tags + int64(s.n(6, 5)) - 1)
	case 1:
		q.Repositories = limit(u.Repositories + int64(s.n(6, 2)))
	default:
		used := u.Bytes
		if q.Deduplicated {
			used = u.Deduplicated
		}
		q.Bytes = limit(used + int64(s.n(6, 4000)) - 300)
	}
	w.same(fmt.Sprintf("quota of %s %v of %+v", organization, q.Limits(u), u), done, of(w.db.SetQuota(w.ctx, q)))
	w.quotas[organization] = q
}

// stepNoPolicy takes a policy away.
func (w *world) stepNoPolicy(s step) {
	switch s.n(4, 5) {
	case 0, 1:
		for organization := range w.freezes {
			w.same("unfreeze "+organization, done, of(w.db.DeleteFreeze(w.ctx, organization)))
		}
		clear(w.freezes)
	case 2:
		if len(w.protections) > 0 {
			p := w.protections[0]
			w.same("unprotect "+p.String(), done, of(w.db.DeleteProtection(w.ctx, p.Organization, p.ID)))
			w.protections = w.protections[1:]
		}
	case 3:
		for organization := range w.quotas {
			w.same("no quota of "+organization, done, of(w.db.DeleteQuota(w.ctx, organization)))
		}
		clear(w.quotas)
	default:
		if len(w.retentions) > 0 {
			p := w.retentions[0]
			w.same(fmt.Sprintf("no retention %d of %q", p.ID, p.Organization), done, of(w.db.DeleteRetention(w.ctx, p.Organization, p.ID)))
			w.retentions = w.retentions[1:]
		}
	}
}

func (w *world) stepCollect(s step) {
	if s.oneIn(4, 3) {
		w.wait(grace + grace/4 + time.Millisecond)
	}
	w.collect()
}

// collect makes a pass, after which nothing is left whose time is over.
func (w *world) collect() {
	_, err := w.collector.Collect(w.ctx)
	w.same("collect", done, of(err))
	w.state.collect(now())
	doomed, err := w.db.Doomed(w.ctx, "", all)
	must(err, "doomed objects")
	if len(doomed) > 0 {
		fail("%d objects are left", len(doomed))
	}
}

// stepWait lets time pass, often just as much as something needs, or a bit more.
func (w *world) stepWait(s step) {
	d := []time.Duration{time.Millisecond, time.Millisecond, time.Second, time.Minute, grace / 4, grace + grace/4, expiry, keep}[s.n(4, 8)]
	w.wait(d + time.Duration(s.n(5, 2))*time.Millisecond)
}

func (w *world) wait(d time.Duration) {
	time.Sleep(d)
	w.log = append(w.log, fmt.Sprintf("wait %s", d))
}
