// Package retention finds out which tags and manifests policies of retention let go, and deletes them.
//
// What holds true: a plan is made of what was there when it was made, in a scratch file, so memory does not grow with the repository, and nothing waits for
// it. What a plan lets go is decided once more, by meta.DeleteCascade in the transaction that deletes it: what has moved since, and what something else
// needs by now, stays. So a plan may be old, cut off or carried out twice.
//
// What stays: tags that no policy is for, that a rule of any policy for them keeps, or that are protected; manifests that have such a tag, or
// were pulled lately; and from there on what an index consists of, what something refers to, referrers, and what belongs to a manifest by its tag.
package retention

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	_ "modernc.org/sqlite" // the scratch file

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// Item is a line of a plan: a tag or, without one, a manifest.
type Item struct {
	Repository oci.Repository `json:"repository"`
	Tag        oci.Tag        `json:"tag,omitempty"`
	Digest     oci.Digest     `json:"digest,omitzero"` // none of a whole repository that is skipped
	Action     Action         `json:"action"`
	Why        string         `json:"why"`
	Bytes      int64          `json:"bytes"` // that are free when all items until here have gone; layers count once, those that other repositories need do not
	// With is the same for what goes at once. So no image is left without a tag, or an index without a part, by who is cut off in between.
	With oci.Digest `json:"with,omitzero"`
	// Pushed and Pulled are when an item was pushed and pulled last that goes, as of the plan: what is pushed or, if that keeps it, pulled later, stays.
	Pushed time.Time `json:"pushed,omitzero"`
	Pulled time.Time `json:"pulled,omitzero"`
}

// Action is what becomes of an Item.
type Action string

// The actions.
const (
	Drop Action = "drop"
	Keep Action = "keep"
	Skip Action = "skip" // the repository is frozen
)

// Planner makes plans. It is used by one goroutine at a time.
type Planner struct {
	db  *meta.DB
	now time.Time
	// Since when pulls are known. What was pulled before, and what an upgrade or a restore has forgotten, counts as pulled then.
	known time.Time
	of    *rules // of the repository whose lines are emitted
}

// NewPlanner returns a Planner that goes by the time now, or by the database's clock if that is zero: so a node whose clock is wrong lets nothing go too early.
func NewPlanner(db *meta.DB, now time.Time) *Planner { return &Planner{db: db, now: now} }

const page = 1000

// inUse is how long a manifest, and what would take it along, stays after it was pushed again without a tag: an index that needs it may be on its way.
const inUse = time.Hour

// Plan makes the plan of an organization, or of all if that is empty, and calls emit for each line of it, repository after repository: first what goes, in an order in
// which it can go, then what stays. Repositories that no policy is for are left out. An error of emit ends it.
func (p *Planner) Plan(ctx context.Context, organization string, emit func(Item) error) (err error) {
	known, now, err := p.db.PullsSince(ctx)
	if err != nil {
		return fmt.Errorf("ask for the time: %w", err)
	}
	if p.known = known; p.now.IsZero() {
		p.now = now
	}
	dir, err := os.MkdirTemp("", "berth-retention-")
	if err != nil {
		return fmt.Errorf("make a scratch folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	policies := make(map[string]*rules)
	for after := ""; ; {
		names, err := p.db.Repositories(ctx, after, page)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			after = name
			r := oci.Repository(name)
			of := access.Organization(r)
			if organization != "" && of != organization {
				continue
			}
			if policies[of] == nil {
				clear(policies) // names come in order
				if policies[of], err = p.rules(ctx, of); err != nil {
					return err
				}
			}
			p.of = policies[of]
			if err := p.repository(ctx, dir, r, p.of, emit); err != nil {
				return fmt.Errorf("retention of %s: %w", r, err)
			}
		}
	}
}

// rules are what holds in an organization.
type rules struct {
	organization string
	retentions   []*meta.Retention
	protections  policy.Set
}

func (p *Planner) rules(ctx context.Context, organization string) (*rules, error) {
	found := &rules{organization: organization}
	for _, of := range []string{"", organization} {
		for after := int64(0); ; {
			some, err := p.db.Retentions(ctx, of, after, page)
			if err != nil {
				return nil, err
			}
			if len(some) == 0 {
				break
			}
			after = some[len(some)-1].ID
			found.retentions = append(found.retentions, some...)
		}
		for after := int64(0); ; {
			some, err := p.db.Protections(ctx, of, after, page)
			if err != nil {
				return nil, err
			}
			if len(some) == 0 {
				break
			}
			after = some[len(some)-1].ID
			for _, s := range some {
				found.protections.Protections = append(found.protections.Protections, s.Protection)
			}
		}
	}
	return found, nil
}

// same tells whether the policies of retention are still the same. They do not change, but come and go.
func (p *Planner) same(ctx context.Context, of *rules) (bool, error) {
	now, err := p.rules(ctx, of.organization)
	return err == nil && slices.EqualFunc(now.retentions, of.retentions, func(a, b *meta.Retention) bool { return a.ID == b.ID }), err
}

// scratchTables have what is known of a repository. An edge says that b stays if a does and, if it spreads, that b may go if a does.
const scratchTables = `
	CREATE TABLE manifest (digest TEXT PRIMARY KEY, id INTEGER, size INTEGER, goes INTEGER NOT NULL DEFAULT 0, lately TEXT, again INTEGER, old INTEGER, pushed INTEGER, pulled INTEGER) WITHOUT ROWID;
	CREATE TABLE tag (name TEXT PRIMARY KEY, digest TEXT, belongs TEXT, keep TEXT, pushed INTEGER, pulled INTEGER) WITHOUT ROWID;
	CREATE TABLE matched (policy INTEGER, name TEXT, pushed INTEGER, minor TEXT, patch TEXT, PRIMARY KEY (policy, name)) WITHOUT ROWID;
	CREATE TABLE edge (a TEXT, b TEXT, why TEXT, spreads INTEGER, PRIMARY KEY (a, b, why)) WITHOUT ROWID;
	CREATE TABLE blob (blob INTEGER, manifest INTEGER, size INTEGER, elsewhere INTEGER, PRIMARY KEY (blob, manifest)) WITHOUT ROWID;`

// repository makes the plan of one repository.
func (p *Planner) repository(ctx context.Context, dir string, r oci.Repository, of *rules, emit func(Item) error) (err error) {
	var mine []*meta.Retention
	for _, v := range of.retentions {
		if v.MatchesRepository(r) {
			mine = append(mine, v)
		}
	}
	if len(mine) == 0 {
		return nil
	}
	var frozen *policy.FrozenError
	if err := p.db.CheckChange(ctx, r); errors.As(err, &frozen) {
		return emit(Item{Repository: r, Action: Skip, Why: frozen.Error()})
	} else if err != nil {
		return err
	}
	file := filepath.Join(dir, "plan.db")
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(OFF)&_pragma=synchronous(OFF)&_pragma=temp_store(1)&_pragma=cache_size(-8000)")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer func() { err = errors.Join(err, db.Close(), os.Remove(file)) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	s := &scratch{ctx, tx, make(map[string]*sql.Stmt)}
	if err := s.exec(scratchTables); err != nil {
		return err
	}
	if err = p.manifests(ctx, s, r, mine); err == nil {
		err = p.tags(ctx, s, r, mine, of)
	}
	if err == nil {
		err = s.decide(mine)
	}
	if errors.Is(err, meta.ErrNotFound) {
		return nil // it has gone meanwhile
	}
	if err != nil {
		return err
	}
	return s.emit(r, emit)
}

// scratch runs statements on the scratch file.
type scratch struct {
	ctx   context.Context
	tx    *sql.Tx
	stmts map[string]*sql.Stmt
}

func (s *scratch) exec(text string, args ...any) error {
	if len(args) == 0 {
		_, err := s.tx.ExecContext(s.ctx, text)
		return err
	}
	stmt := s.stmts[text]
	if stmt == nil {
		var err error
		if stmt, err = s.tx.PrepareContext(s.ctx, text); err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		s.stmts[text] = stmt
	}
	_, err := stmt.ExecContext(s.ctx, args...)
	return err
}

// manifests loads manifests, and what connects them.
func (p *Planner) manifests(ctx context.Context, s *scratch, r oci.Repository, policies []*meta.Retention) error {
	var untagged, pulled time.Duration
	for _, v := range policies {
		untagged, pulled = max(untagged, v.Rules.Untagged), max(pulled, v.Rules.Pulled)
	}
	for after := ""; ; {
		all, err := p.db.KeptManifests(ctx, r, after, page)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil
		}
		ids, digests := make([]int64, len(all)), make(map[int64]string, len(all))
		for i, m := range all {
			ids[i], digests[m.ID] = m.ID, m.Digest.String()
			var lately *string
			switch why := "pulled in the last " + policy.Days(pulled); {
			case pulled > 0 && p.within(m.Pulled, pulled):
				lately = &why
			case pulled > 0 && p.within(p.known, pulled):
				why = p.unknown(pulled)
				lately = &why
			}
			pushed := latest(m.Pushed, m.Again)
			old := untagged > 0 && !p.within(latest(pushed, m.Freed, m.Pulled, p.known), untagged)
			if err := s.exec(`INSERT INTO manifest (digest, id, size, lately, again, old, pushed, pulled) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
				m.Digest.String(), m.ID, m.Size, lately, p.within(m.Again, inUse), old, pushed.UnixMilli(), seen(m.Pulled, pushed, max(untagged, pulled))); err != nil {
				return err
			}
			if m.Subject == "" {
				continue
			}
			if err := s.edge(m.Digest.String(), m.Subject, "is the subject of", false); err != nil {
				return err
			}
			if err := s.edge(m.Subject, m.Digest.String(), "refers to", true); err != nil {
				return err
			}
		}
		after = all[len(all)-1].Digest.String()
		if err := p.db.KeptParts(ctx, ids, func(id int64, child string) error {
			return s.edge(digests[id], child, "is part of", true)
		}, func(id, blob, size int64, elsewhere bool) error {
			return s.exec(`INSERT INTO blob (blob, manifest, size, elsewhere) VALUES (?, ?, ?, ?)`, blob, id, size, elsewhere)
		}); err != nil {
			return err
		}
	}
}

// within tells whether a time is not longer ago than d, or ahead.
func (p *Planner) within(t time.Time, d time.Duration) bool { return !t.Before(p.now.Add(-d)) }

// unknown says why a plan does not know what was pulled in a time.
func (p *Planner) unknown(d time.Duration) string {
	return fmt.Sprintf("what was pulled in the last %s is not known, but since %s", policy.Days(d), p.known.UTC().Format(time.DateTime))
}

func latest(times ...time.Time) time.Time {
	return slices.MaxFunc(times, time.Time.Compare)
}

// seen returns the time after which a pull keeps something; 0 if no rule looks at pulls.
func seen(pulled, pushed time.Time, rule time.Duration) int64 {
	switch {
	case rule == 0:
		return 0
	case pulled.IsZero():
		return pushed.UnixMilli()
	}
	return pulled.UnixMilli()
}

// edge says that b stays if a does, and, if it spreads, that b may go if a does.
func (s *scratch) edge(a, b, why string, spreads bool) error {
	return s.exec(`INSERT OR IGNORE INTO edge (a, b, why, spreads) VALUES (?, ?, ?, ?)`, a, b, why, spreads)
}

// tags loads tags. keep is why a tag stays; of those that a rule looks at together, that is not known yet.
func (p *Planner) tags(ctx context.Context, s *scratch, r oci.Repository, policies []*meta.Retention, of *rules) error {
	for after := ""; ; {
		all, err := p.db.TagTimes(ctx, r, after, page)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil
		}
		for _, tag := range all {
			after = string(tag.Tag)
			var keep, belongs *string
			if begins := meta.SubjectOfTag(tag.Tag); begins != "" {
				var subject string
				err := s.tx.QueryRowContext(ctx, `SELECT digest FROM manifest WHERE digest >= ? AND digest < ? || 'g' LIMIT 1`, begins, begins).Scan(&subject)
				if err == nil {
					belongs = &subject
					err = s.edge(subject, tag.Digest.String(), "belongs to", true)
				}
				if err != nil && !errors.Is(err, sql.ErrNoRows) {
					return err
				}
			}
			why, rule := p.keeps(r, tag, policies, of)
			if why != "" && (belongs == nil || of.protections.Protecting(r, tag.Tag) != nil) {
				keep = &why
			}
			if err := s.exec(`INSERT INTO tag (name, digest, belongs, keep, pushed, pulled) VALUES (?, ?, ?, ?, ?, ?)`,
				after, tag.Digest.String(), belongs, keep, tag.Pushed.UnixMilli(), seen(tag.Pulled, tag.Pushed, rule)); err != nil {
				return err
			}
			if belongs != nil {
				continue
			}
			for _, v := range policies {
				if (v.Rules.Newest > 0 || v.Rules.Minors > 0) && v.Matches(r, tag.Tag) {
					var minor, patch *string
					if version := policy.Version(tag.Tag); version != nil && version.Prerelease() == "" {
						a, b := fmt.Sprintf("%020d.%020d", version.Major(), version.Minor()), fmt.Sprintf("%020d", version.Patch())
						minor, patch = &a, &b
					}
					if err := s.exec(`INSERT INTO matched (policy, name, pushed, minor, patch) VALUES (?, ?, ?, ?, ?)`, v.ID, after, tag.Pushed.UnixMilli(), minor, patch); err != nil {
						return err
					}
				}
			}
		}
	}
}

// keeps returns why a tag stays, as far as that does not depend on other tags, or nothing, and the longest time of a rule about pulls.
func (p *Planner) keeps(r oci.Repository, tag meta.TagTimes, policies []*meta.Retention, of *rules) (why string, pulled time.Duration) {
	if held := of.protections.Protecting(r, tag.Tag); held != nil {
		return "protected by " + held.String(), 0
	}
	matched := false
	for _, v := range policies {
		if !v.Matches(r, tag.Tag) {
			continue
		}
		matched = true
		if d := v.Rules.Pushed; d > 0 && p.within(tag.Pushed, d) {
			return fmt.Sprintf("pushed in the last %s (policy %d)", policy.Days(d), v.ID), 0
		}
		d := v.Rules.Pulled
		pulled = max(pulled, d)
		switch {
		case d == 0:
		case p.within(tag.Pulled, d):
			return fmt.Sprintf("pulled in the last %s (policy %d)", policy.Days(d), v.ID), 0
		case p.within(tag.Pushed, d):
			return fmt.Sprintf("pushed in the last %s, in which it may not have been pulled yet (policy %d)", policy.Days(d), v.ID), 0
		case p.within(p.known, d):
			return fmt.Sprintf("%s (policy %d)", p.unknown(d), v.ID), 0
		}
	}
	if !matched {
		return "no policy is for it", 0
	}
	return "", pulled
}

// decide finds out what goes.
func (s *scratch) decide(policies []*meta.Retention) error {
	for _, v := range policies {
		if v.Rules.Newest > 0 {
			if err := s.exec(`UPDATE tag SET keep = ? WHERE keep IS NULL AND name IN (SELECT name FROM
				(SELECT name, ROW_NUMBER() OVER (ORDER BY pushed DESC, name DESC) AS place FROM matched WHERE policy = ?) WHERE place <= ?)`,
				fmt.Sprintf("among the newest %d (policy %d)", v.Rules.Newest, v.ID), v.ID, v.Rules.Newest); err != nil {
				return err
			}
		}
		if v.Rules.Minors > 0 {
			if err := s.exec(`UPDATE tag SET keep = ? WHERE keep IS NULL AND name IN (SELECT name FROM
				(SELECT name, DENSE_RANK() OVER (PARTITION BY minor ORDER BY patch DESC) AS patches, DENSE_RANK() OVER (ORDER BY minor DESC) AS minors
				FROM matched WHERE policy = ? AND minor IS NOT NULL) WHERE patches <= ? AND minors <= ?)`,
				fmt.Sprintf("%s (policy %d)", v.Rules.Versions(), v.ID), v.ID, max(v.Rules.Patches, 1), v.Rules.Minors); err != nil {
				return err
			}
		}
	}
	for _, text := range []string{
		`CREATE INDEX tag_digest ON tag (digest)`,
		`CREATE INDEX edge_b ON edge (b)`,
		`CREATE INDEX manifest_id ON manifest (id)`,
		// What may go: what loses a tag or is old and has none, and what is there for it.
		`WITH RECURSIVE candidate (digest) AS (
			SELECT digest FROM tag WHERE keep IS NULL AND belongs IS NULL
			UNION SELECT digest FROM manifest WHERE old = 1 AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.digest = manifest.digest)
			UNION SELECT e.b FROM candidate c CROSS JOIN edge e WHERE e.a = c.digest AND e.spreads = 1)
		UPDATE manifest SET goes = 1 WHERE digest IN (SELECT digest FROM candidate)`,
		// Whoever pushed a part again may be about to push an index: what would take it along waits, with its tags.
		`CREATE TABLE waiting (digest TEXT PRIMARY KEY) WITHOUT ROWID`,
		`WITH RECURSIVE up (digest) AS (
			SELECT digest FROM manifest WHERE again = 1 AND goes = 1
			UNION SELECT m.digest FROM up CROSS JOIN edge e CROSS JOIN manifest m WHERE e.b = up.digest AND e.spreads = 1 AND m.digest = e.a AND m.goes = 1)
		INSERT INTO waiting SELECT digest FROM up`,
		`UPDATE manifest SET lately = 'pushed again, or taken out of the trash, in the last hour, or a part of it was' WHERE digest IN (SELECT digest FROM waiting)`,
		`UPDATE tag SET keep = 'its manifest was pushed again, or taken out of the trash, in the last hour, or a part of it' WHERE keep IS NULL AND belongs IS NULL
			AND digest IN (SELECT digest FROM waiting)`,
		// And what stays after all.
		`WITH RECURSIVE kept (digest) AS (
			SELECT digest FROM manifest WHERE goes = 0 OR lately IS NOT NULL
			UNION SELECT digest FROM tag WHERE keep IS NOT NULL
			UNION SELECT belongs FROM tag WHERE keep IS NOT NULL AND belongs IS NOT NULL
			UNION SELECT e.b FROM kept k CROSS JOIN edge e WHERE e.a = k.digest)
		UPDATE manifest SET goes = 0 WHERE goes = 1 AND digest IN (SELECT digest FROM kept)`,
		`UPDATE tag SET keep = 'belongs to ' || belongs WHERE keep IS NULL AND EXISTS (SELECT 1 FROM manifest m WHERE m.digest = tag.belongs AND m.goes = 0)`,
		// What goes at once: with each that nothing else takes along, what it takes along. What several take along goes with the last of them.
		`CREATE TABLE going (digest TEXT PRIMARY KEY, id INTEGER, lead INTEGER, leader TEXT, place INTEGER) WITHOUT ROWID`,
		`WITH RECURSIVE reach (lead, digest) AS (
			SELECT m.id, m.digest FROM manifest m WHERE m.goes = 1
				AND NOT EXISTS (SELECT 1 FROM edge e CROSS JOIN manifest a WHERE e.b = m.digest AND e.spreads = 1 AND a.digest = e.a AND a.goes = 1)
			UNION SELECT r.lead, e.b FROM reach r CROSS JOIN edge e CROSS JOIN manifest m WHERE e.a = r.digest AND e.spreads = 1 AND m.digest = e.b AND m.goes = 1)
		INSERT INTO going (digest, lead) SELECT digest, MIN(lead) FROM reach GROUP BY digest`,
		`INSERT OR IGNORE INTO going (digest, lead) SELECT digest, id FROM manifest WHERE goes = 1`, // circles of tags made of digests
		`UPDATE going SET id = (SELECT m.id FROM manifest m WHERE m.digest = going.digest)`,
		`CREATE UNIQUE INDEX going_id ON going (id)`,
		`UPDATE going SET leader = (SELECT l.digest FROM going l WHERE l.id = going.lead)`,
		`UPDATE going SET place = n.place FROM (SELECT digest, ROW_NUMBER() OVER (ORDER BY lead, id) AS place FROM going) AS n WHERE n.digest = going.digest`,
		// What goes last frees what it shares.
		`CREATE TABLE freed (place INTEGER, size INTEGER)`,
		`INSERT INTO freed SELECT MIN(g.place), MAX(b.size) FROM blob b CROSS JOIN manifest m LEFT JOIN going g ON g.id = m.id WHERE m.id = b.manifest
			GROUP BY b.blob HAVING MIN(m.goes) = 1 AND MAX(b.elsewhere) = 0`,
		`CREATE INDEX freed_place ON freed (place)`,
	} {
		if err := s.exec(text); err != nil {
			return err
		}
	}
	return nil
}

// emit reads the plan.
func (s *scratch) emit(r oci.Repository, emit func(Item) error) error {
	rows, err := s.tx.QueryContext(s.ctx, `
		SELECT t.name AS name, t.digest, COALESCE(t.keep, 'no rule keeps it'), t.keep IS NOT NULL AS stays, COALESCE(b.lead, g.lead, m.id, 0) AS lead,
				COALESCE(b.leader, g.leader, t.digest), 0 AS kind, COALESCE(m.id, 0) AS id, 0, t.pushed, t.pulled
			FROM tag t LEFT JOIN manifest m ON m.digest = t.digest LEFT JOIN going g ON g.digest = t.digest LEFT JOIN going b ON b.digest = t.belongs
		UNION ALL
		SELECT '', m.digest, CASE m.goes WHEN 1 THEN 'nothing needs it' ELSE COALESCE(
				(SELECT 'tag ' || t.name FROM tag t WHERE t.digest = m.digest AND t.keep IS NOT NULL LIMIT 1), m.lately,
				(SELECT e.why || ' ' || e.a FROM edge e JOIN manifest k ON k.digest = e.a AND k.goes = 0 WHERE e.b = m.digest LIMIT 1),
				'it has no tag, and is not old enough') END,
			m.goes = 0, COALESCE(g.lead, m.id), COALESCE(g.leader, m.digest), 1, m.id,
			CASE m.goes WHEN 1 THEN m.size + COALESCE((SELECT SUM(f.size) FROM freed f WHERE f.place = g.place), 0) ELSE 0 END, m.pushed, m.pulled
			FROM manifest m LEFT JOIN going g ON g.digest = m.digest
		ORDER BY stays, lead DESC, kind, id DESC, name`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		i := Item{Repository: r}
		var digest, leader string
		var stays bool
		var id, lead, kind, pushed, pulled int64
		if err := rows.Scan(&i.Tag, &digest, &i.Why, &stays, &lead, &leader, &kind, &id, &i.Bytes, &pushed, &pulled); err != nil {
			return err
		}
		if err := i.Digest.UnmarshalText([]byte(digest)); err != nil {
			return err
		}
		if i.Action = Keep; !stays {
			i.Action, i.Pushed = Drop, time.UnixMilli(pushed).UTC()
			if pulled > 0 {
				i.Pulled = time.UnixMilli(pulled).UTC()
			}
			if err := i.With.UnmarshalText([]byte(leader)); err != nil {
				return err
			}
		}
		if err := emit(i); err != nil {
			return err
		}
	}
	return rows.Err()
}
