package meta

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Cascade is what goes from a repository when a tag or a manifest is deleted with all that is there for it alone: what an index names, what refers to
// a manifest, and what cosign and others keep under a tag made of its digest. What a tag, an index or a referrer needs that stays, stays.
type Cascade struct {
	Tags      []CascadeTag
	Manifests []CascadeManifest
	Kept      []CascadeManifest // that were looked at, and stay
	Bytes     int64             // that are free once it is collected: what other repositories or manifests need does not count, layers count once
}

// CascadeTag is a tag, and what it points to.
type CascadeTag struct {
	Tag    oci.Tag
	Digest oci.Digest
}

// CascadeManifest is a manifest, and why it goes or stays.
type CascadeManifest struct {
	Digest    oci.Digest
	MediaType string
	Size      int64 // of the manifest alone
	Why       string
}

// Seen is when something was pushed and pulled last, as a plan has seen it, to the millisecond. What was pushed or pulled later stays; a zero time
// stands for whenever.
type Seen struct{ Pushed, Pulled time.Time }

// passed tells whether something was pushed or pulled since, by times of the database; 0 stands for never.
func (s Seen) passed(pushed, pulled int64) bool {
	return !s.Pushed.IsZero() && pushed > s.Pushed.UnixMilli() || !s.Pulled.IsZero() && pulled > s.Pulled.UnixMilli()
}

// OrderedTag is a tag that is to be deleted.
type OrderedTag struct {
	CascadeTag
	Seen
}

// OrderedManifest is a manifest that is to be deleted.
type OrderedManifest struct {
	Digest oci.Digest
	Seen
}

// MaxCascade is how many tags and manifests can be deleted at once. It bounds the time that others wait.
const MaxCascade = 1000

// maxCascadeEdges bounds what connects them.
const maxCascadeEdges = 20 * MaxCascade

// ErrTooMany: more would be deleted at once than is possible.
var ErrTooMany = errors.New("too much at once")

// PlanCascade returns what would go with a tag, or with a manifest and its tags, or ErrNotFound, ErrTooMany, a *policy.FrozenError or a *policy.ProtectedError.
func (db *DB) PlanCascade(ctx context.Context, r oci.Repository, ref oci.Reference) (*Cascade, error) {
	var c *Cascade
	err := db.update(ctx, func(t *tx) error {
		g, err := t.newCascade(r)
		if err != nil {
			return err
		}
		d := ref.Digest
		if ref.IsDigest() {
			err = g.addTagsOf(d)
		} else if d, err = t.pointsTo(g.repo, ref.Tag); err == nil {
			g.tags[ref.Tag] = d
		}
		if err != nil {
			return err
		}
		if err := g.collect([]oci.Digest{d}, "what is to be deleted"); err != nil {
			return err
		}
		if len(g.nodes) == 0 {
			return ErrNotFound
		}
		c, err = g.result()
		return err
	})
	return c, err
}

// DeleteCascade deletes those of the tags and manifests of a plan that can still go, in one transaction, and returns them as PlanCascade does: a tag that has moved or is protected by now,
// what was pushed or pulled since, and what something needs that is not part of the plan, stays. So does a tag made of a digest, if it has times that were Seen and
// its manifest is there and stays. allow, if not nil, is asked for each tag. With an error nothing happens. To repeat
// it does no harm. There can be as many tags and manifests as a Cascade has.
func (db *DB) DeleteCascade(ctx context.Context, r oci.Repository, tags []OrderedTag, manifests []OrderedManifest, allow Allow, origin Origin, now time.Time) (*Cascade, error) {
	if len(tags)+len(manifests) > MaxCascade {
		return nil, ErrTooMany
	}
	var c *Cascade
	err := db.update(ctx, func(t *tx) error {
		c = new(Cascade)
		g, err := t.newCascade(r)
		if errors.Is(err, ErrNotFound) {
			return nil // all is gone
		}
		if err != nil {
			return err
		}
		if err := g.order(tags, manifests); err != nil {
			return err
		}
		if c, err = g.result(); err != nil || len(c.Tags)+len(c.Manifests) == 0 {
			return err
		}
		t.touch(r)
		going := make(map[oci.Digest]bool, len(c.Manifests))
		for _, m := range c.Manifests {
			going[m.Digest] = true
		}
		for _, tag := range c.Tags {
			if allow != nil {
				if err := allow(tag.Tag, tag.Digest); err != nil {
					return err
				}
			}
			if going[tag.Digest] { // it goes with the manifest, and to the trash with it
				err = t.record(origin, r, describeTag(tag.Tag, tag.Digest), now)
			} else {
				err = t.deleteTag(g.repo, r, tag.Tag, tag.Digest, origin, now)
			}
			if err != nil {
				return err
			}
		}
		for _, m := range c.Manifests {
			if err := t.deleteManifest(g.repo, r, g.nodes[m.Digest.String()].id, m.Digest, g.held, allow, origin, now); err != nil {
				return err
			}
		}
		_, err = t.dropIfEmpty(g.repo)
		return err
	})
	return c, err
}

// order lets tags and manifests go, and nothing else, unless they were used since a plan has seen them.
func (g *cascade) order(tags []OrderedTag, manifests []OrderedManifest) error {
	ordered := make(map[string]OrderedTag, len(tags))
	names := []string{}
	for _, tag := range tags {
		ordered[string(tag.Tag)] = tag
		names = append(names, string(tag.Tag))
	}
	seen := make(map[string]Seen, len(manifests))
	var digests []oci.Digest
	g.only = make(map[oci.Digest]bool, len(manifests))
	for _, m := range manifests {
		g.only[m.Digest], seen[m.Digest.String()] = true, m.Seen
		digests = append(digests, m.Digest)
	}
	beside := make(map[string][]oci.Tag) // tags by the digest, or beginning of one, that they are made of
	if err := g.t.query(func(scan func(...any) error) error {
		var name, digest string
		var pushed, pulled int64
		if err := scan(&name, &digest, &pushed, &pulled); err != nil {
			return err
		}
		tag := ordered[name]
		if digest != tag.Digest.String() || tag.passed(pushed, pulled) || g.held.Protecting(g.r, tag.Tag) != nil {
			return nil
		}
		g.tags[tag.Tag] = tag.Digest
		if d := SubjectOfTag(tag.Tag); d != "" && !tag.Pushed.IsZero() {
			beside[d] = append(beside[d], tag.Tag)
		}
		return nil
	}, `SELECT t.name, m.digest, t.updated_at, COALESCE((SELECT p.pulled_at FROM tag_pull p WHERE p.repository_id = t.repository_id AND p.name = t.name), 0)
		FROM `+g.t.list("$2")+` CROSS JOIN tag t CROSS JOIN manifest m
		WHERE t.repository_id = $1 AND t.name = list.value AND m.id = t.manifest_id`, g.repo, jsonOf(names)); err != nil {
		return err
	}
	if len(beside) > 0 {
		if err := g.t.query(func(scan func(...any) error) error {
			var begins, digest string
			err := scan(&begins, &digest)
			if _, goes := seen[digest]; !goes {
				for _, tag := range beside[begins] {
					delete(g.tags, tag)
				}
			}
			return err
		}, `SELECT list.value, m.digest FROM `+g.t.list("$2")+` CROSS JOIN manifest m WHERE m.repository_id = $1 AND m.digest >= list.value AND m.digest < list.value || 'g'`,
			g.repo, jsonOf(slices.Sorted(maps.Keys(beside)))); err != nil {
			return err
		}
	}
	if err := g.collect(digests, "part of the plan"); err != nil {
		return err
	}
	var used []string
	again := make(map[string]bool) // those of them that were pushed
	if len(seen) == 0 {
		return nil
	}
	err := g.t.query(func(scan func(...any) error) error {
		var digest string
		var pushed, pulled int64
		err := scan(&digest, &pushed, &pulled)
		if s := seen[digest]; s.passed(pushed, pulled) {
			used = append(used, digest)
			again[digest] = s.passed(pushed, 0)
		}
		return err
	}, `SELECT m.digest, COALESCE(u.pushed_at, m.created_at), COALESCE(u.pulled_at, 0) FROM `+g.t.list("$2")+` CROSS JOIN manifest m LEFT JOIN manifest_use u ON u.manifest_id = m.id
		WHERE m.repository_id = $1 AND m.digest = list.value`, g.repo, jsonOf(slices.Sorted(maps.Keys(seen))))
	maps.DeleteFunc(g.tags, func(_ oci.Tag, d oci.Digest) bool { return again[d.String()] })
	for _, d := range used {
		g.keep(d, "was pushed or pulled since the plan was made")
	}
	return err
}

// pointsTo returns what a tag points to, or ErrNotFound.
func (t *tx) pointsTo(repo int64, tag oci.Tag) (oci.Digest, error) {
	found, err := t.findTags(repo, []oci.Tag{tag})
	if err == nil && found[tag].manifest == 0 {
		err = ErrNotFound
	}
	return found[tag].digest, err
}

// cascade finds out what goes. Nodes are the manifests that may go, by digest; what comes from elsewhere keeps them.
type cascade struct {
	t    *tx
	r    oci.Repository
	repo int64
	held *policy.Set

	tags  map[oci.Tag]oci.Digest // that go, unless what they belong to stays
	only  map[oci.Digest]bool    // if not nil, nothing else may go
	nodes map[string]*cascadeNode
	all   []*cascadeNode // in the order in which they were found
	edges int
}

type cascadeNode struct {
	CascadeManifest
	id        int64
	subject   string
	tags      int64    // how many point to it
	children  []string // digests, as all below
	parents   []string
	referrers []string
	belongs   []CascadeTag // what is kept under tags that are made of its digest
	kept      bool
}

func (t *tx) newCascade(r oci.Repository) (*cascade, error) {
	repo, err := t.lockRepository(r)
	if err != nil {
		return nil, err
	}
	held, err := t.changeable(r)
	return &cascade{t: t, r: r, repo: repo, held: held, tags: make(map[oci.Tag]oci.Digest), nodes: make(map[string]*cascadeNode)}, err
}

// addTagsOf lets all tags of a manifest go.
func (g *cascade) addTagsOf(d oci.Digest) error {
	return g.t.query(func(scan func(...any) error) error {
		var tag oci.Tag
		if err := scan(&tag); err != nil {
			return err
		}
		g.tags[tag] = d
		return g.grow()
	}, `SELECT t.name FROM manifest m JOIN tag t ON t.manifest_id = m.id WHERE m.repository_id = $1 AND m.digest = $2 LIMIT $3`, g.repo, d.String(), MaxCascade+1)
}

// grow bounds memory and time.
func (g *cascade) grow() error {
	if g.edges++; g.edges > maxCascadeEdges || len(g.nodes) > MaxCascade || len(g.tags) > MaxCascade {
		return ErrTooMany
	}
	return nil
}

// companionTags are those under which cosign, and clients for registries that know no referrers, keep what belongs to a manifest.
func companionTags(d oci.Digest) []string {
	base := string(d.Algorithm()) + "-" + d.Encoded()
	return []string{base + ".sig", base + ".att", base + ".sbom", string(d.ReferrersTag())}
}

var companion = regexp.MustCompile(`^(?:(sha256)-([0-9a-f]{64})|(sha512)-([0-9a-f]{64}|[0-9a-f]{128}))(\.sig|\.att|\.sbom)?$`)

// SubjectOfTag returns the digest that a tag is made of under which clients keep what belongs to a manifest, or its beginning if clients have cut it off; empty for other tags.
func SubjectOfTag(tag oci.Tag) string {
	m := companion.FindStringSubmatch(string(tag))
	if m == nil {
		return ""
	}
	return m[1] + m[3] + ":" + m[2] + m[4]
}

// collect makes nodes of manifests, and of all that may go with them.
func (g *cascade) collect(manifests []oci.Digest, why string) error {
	found := make(map[string]string, len(manifests))
	for _, d := range manifests {
		found[d.String()] = why
	}
	for len(found) > 0 {
		added, err := g.load(found)
		if err != nil || len(added) == 0 {
			return err
		}
		if found, err = g.expand(added); err != nil {
			return err
		}
	}
	return nil
}

// load makes nodes of those manifests that are there and are none yet. found says why they go.
func (g *cascade) load(found map[string]string) (added []*cascadeNode, err error) {
	var digests []string
	for _, d := range slices.Sorted(maps.Keys(found)) {
		if g.nodes[d] == nil {
			digests = append(digests, d)
		}
	}
	if len(digests) == 0 {
		return nil, nil
	}
	err = g.t.query(func(scan func(...any) error) error {
		n := new(cascadeNode)
		var digest string
		if err := scan(&n.id, &digest, &n.MediaType, &n.Size, &n.subject, &n.tags); err != nil {
			return err
		}
		n.Why = found[digest]
		g.nodes[digest] = n
		g.all = append(g.all, n)
		added = append(added, n)
		return errors.Join(n.Digest.UnmarshalText([]byte(digest)), g.grow())
	}, `SELECT m.id, m.digest, m.media_type, m.size, COALESCE(m.subject, ''), (SELECT COUNT(*) FROM tag t WHERE t.manifest_id = m.id)
		FROM `+g.t.list("$2")+` CROSS JOIN manifest m WHERE m.repository_id = $1 AND m.digest = list.value`, g.repo, jsonOf(digests))
	return added, err
}

// expand reads what connects nodes, and returns the digests of what may go with them.
func (g *cascade) expand(nodes []*cascadeNode) (found map[string]string, err error) {
	found = make(map[string]string)
	mayGo := func(digest, why string) error {
		d, err := oci.ParseDigest(digest)
		if err == nil && (g.only == nil || g.only[d]) && found[digest] == "" {
			found[digest] = why
		}
		return errors.Join(err, g.grow())
	}
	ids, digests := make(map[int64]*cascadeNode), make([]string, len(nodes))
	names := make(map[string]*cascadeNode)
	for i, n := range nodes {
		digests[i], ids[n.id] = n.Digest.String(), n
		for _, name := range companionTags(n.Digest) {
			names[name] = n
		}
	}
	t := g.t
	pairs := func(each func(a, b string) error, text string, list string) error {
		return t.query(func(scan func(...any) error) error {
			var a, b string
			if err := scan(&a, &b); err != nil {
				return err
			}
			return each(a, b)
		}, text, g.repo, list)
	}
	if err := t.query(func(scan func(...any) error) error {
		var id int64
		var child string
		if err := scan(&id, &child); err != nil {
			return err
		}
		ids[id].children = append(ids[id].children, child)
		return mayGo(child, "part of "+ids[id].Digest.String())
	}, `SELECT c.manifest_id, c.digest FROM `+t.list("$1")+` CROSS JOIN manifest_child c WHERE c.manifest_id = CAST(list.value AS BIGINT)`,
		jsonOf(slices.Collect(maps.Keys(ids)))); err != nil {
		return nil, err
	}
	if err := pairs(func(child, parent string) error {
		g.nodes[child].parents = append(g.nodes[child].parents, parent)
		return g.grow()
	}, `SELECT c.digest, p.digest FROM `+t.list("$2")+` CROSS JOIN manifest_child c CROSS JOIN manifest p
		WHERE c.repository_id = $1 AND c.digest = list.value AND p.id = c.manifest_id`, jsonOf(digests)); err != nil {
		return nil, err
	}
	if err := pairs(func(subject, referrer string) error {
		g.nodes[subject].referrers = append(g.nodes[subject].referrers, referrer)
		return mayGo(referrer, "refers to "+subject)
	}, `SELECT m.subject, m.digest FROM `+t.list("$2")+` CROSS JOIN manifest m WHERE m.repository_id = $1 AND m.subject = list.value`, jsonOf(digests)); err != nil {
		return nil, err
	}
	err = pairs(func(tag, digest string) error {
		n := names[tag]
		d, err := oci.ParseDigest(digest)
		if err != nil {
			return err
		}
		n.belongs = append(n.belongs, CascadeTag{oci.Tag(tag), d})
		if g.only == nil && g.held.Protecting(g.r, oci.Tag(tag)) == nil {
			g.tags[oci.Tag(tag)] = d
		}
		return mayGo(digest, "belongs to "+n.Digest.String())
	}, `SELECT t.name, m.digest FROM `+t.list("$2")+` CROSS JOIN tag t CROSS JOIN manifest m
		WHERE t.repository_id = $1 AND t.name = list.value AND m.id = t.manifest_id`, jsonOf(slices.Sorted(maps.Keys(names))))
	return found, err
}

// keep says that a node stays, and with it all that it needs and that belongs to it.
func (g *cascade) keep(digest, why string) {
	type stay struct{ digest, why string }
	for todo := []stay{{digest, why}}; len(todo) > 0; {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n := g.nodes[s.digest]
		if n == nil || n.kept {
			continue
		}
		n.kept, n.Why = true, s.why
		for _, d := range n.children {
			todo = append(todo, stay{d, "part of " + s.digest})
		}
		if n.subject != "" {
			todo = append(todo, stay{n.subject, "subject of " + s.digest})
		}
		for _, d := range n.referrers {
			todo = append(todo, stay{d, "refers to " + s.digest})
		}
		for _, tag := range n.belongs {
			delete(g.tags, tag.Tag)
			todo = append(todo, stay{tag.Digest.String(), "belongs to " + s.digest})
		}
	}
}

// result decides. Nothing changes what it rests on until the change ends: the repository is locked.
func (g *cascade) result() (*Cascade, error) {
	going := make(map[oci.Digest]int64)
	for _, d := range g.tags {
		going[d]++
	}
	for _, n := range g.all {
		digest := n.Digest.String()
		if n.tags > going[n.Digest] {
			g.keep(digest, "has another tag")
		}
		for _, d := range n.parents {
			if g.nodes[d] == nil {
				g.keep(digest, "part of "+d)
			}
		}
		for _, d := range n.referrers {
			if g.nodes[d] == nil { // it has come since the plan was made
				g.keep(digest, "subject of "+d)
			}
		}
		for _, tag := range n.belongs {
			if g.tags[tag.Tag] != tag.Digest && !n.kept { // likewise, or it is protected
				g.keep(digest, "has the tag "+string(tag.Tag)+" beside it")
			}
		}
	}
	c := new(Cascade)
	for _, tag := range slices.Sorted(maps.Keys(g.tags)) {
		if err := g.held.CheckTag(g.r, tag, g.tags[tag], oci.Digest{}); err != nil {
			return nil, err
		}
		c.Tags = append(c.Tags, CascadeTag{tag, g.tags[tag]})
	}
	var ids []int64
	for _, n := range g.all {
		if n.kept {
			c.Kept = append(c.Kept, n.CascadeManifest)
			continue
		}
		c.Manifests = append(c.Manifests, n.CascadeManifest)
		c.Bytes += n.Size
		ids = append(ids, n.id)
	}
	if len(ids) == 0 {
		return c, nil
	}
	var bytes int64
	list := g.t.list("$2")
	err := g.t.queryRow(`SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM (SELECT DISTINCT mb.blob_id FROM `+list+` CROSS JOIN manifest_blob mb
			WHERE mb.manifest_id = CAST(list.value AS BIGINT)) AS page CROSS JOIN blob b
		WHERE b.id = page.blob_id AND NOT EXISTS (SELECT 1 FROM repository_blob rb WHERE rb.blob_id = b.id AND rb.repository_id <> $1)
		AND NOT EXISTS (SELECT 1 FROM manifest_blob o WHERE o.repository_id = $1 AND o.blob_id = b.id
			AND o.manifest_id NOT IN (SELECT CAST(list.value AS BIGINT) FROM `+list+`))`, g.repo, jsonOf(ids)).Scan(&bytes)
	c.Bytes += bytes
	return c, err
}
