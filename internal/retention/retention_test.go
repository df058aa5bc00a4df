package retention

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

const (
	app = oci.Repository("team/app")
	day = 24 * time.Hour
)

// now is long after pulls began to be noted.
var now = time.Now().Add(100 * day).Truncate(time.Millisecond)

type world struct {
	*testing.T
	db *meta.DB
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db, err := meta.Open(t.Context(), filepath.Join(t.TempDir(), "berth.db"), meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return &world{t, db}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// push pushes an index that is some days old.
func (w *world) push(age int, seed string, children []oci.Digest, subject oci.Digest, tags ...oci.Tag) oci.Digest {
	w.Helper()
	parts := []oci.Descriptor{}
	for _, d := range children {
		parts = append(parts, oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: d, Size: 1})
	}
	m := map[string]any{"schemaVersion": 2, "mediaType": oci.MediaTypeIndex, "manifests": parts, "annotations": map[string]string{"seed": seed}}
	if !subject.IsZero() {
		m["subject"] = oci.Descriptor{MediaType: oci.MediaTypeIndex, Digest: subject, Size: 1}
	}
	body, err := json.Marshal(m)
	w.must(err)
	parsed, err := oci.ParseManifest(oci.MediaTypeIndex, body)
	w.must(err)
	d := oci.DigestBytes(oci.SHA256, body)
	_, err = w.db.PutManifest(w.Context(), meta.NewManifest{Repository: app, Digest: d, Parsed: parsed, Body: body, Tags: tags, Now: now.Add(-time.Duration(age) * day)})
	w.must(err)
	return d
}

func (w *world) policy(rules policy.Rules, tags ...string) {
	w.Helper()
	parsed, err := policy.ParseTags(tags)
	w.must(err)
	w.must(w.db.AddRetention(w.Context(), &meta.Retention{Retention: policy.Retention{Organization: "team", Tags: parsed, Rules: rules}}))
}

// drops makes a plan, carries it out, and returns the names of what goes: tags, and the seeds of manifests. Another run finds nothing to do.
func (w *world) drops(seeds map[oci.Digest]string) []string {
	w.Helper()
	var names []string
	w.must(NewPlanner(w.db, now).Plan(w.Context(), "team", func(i Item) error {
		switch {
		case i.Action != Drop:
		case i.Tag != "":
			names = append(names, string(i.Tag))
		default:
			names = append(names, "@"+seeds[i.Digest])
		}
		return nil
	}))
	slices.Sort(names)
	res, err := Run(w.Context(), w.db, Options{Now: now})
	w.must(err)
	if int(res.Tags+res.Manifests) != len(names) || res.Stayed != 0 {
		w.Errorf("the plan was %q, and came out as %+v", names, res)
	}
	if res, err = Run(w.Context(), w.db, Options{Now: now}); err != nil || res.Tags+res.Manifests != 0 {
		w.Errorf("the second run: %+v, %v", res, err)
	}
	return names
}

func TestRules(t *testing.T) {
	for _, test := range []struct {
		name  string
		rules policy.Rules
		want  []string
	}{
		{"newest", policy.Rules{Newest: 2}, []string{"1.0.0", "1.0.1", "1.1.0", "@1.0.0", "@1.0.1", "@1.1.0"}},
		{"pushed", policy.Rules{Pushed: 3 * day}, []string{"1.0.0", "1.0.1", "@1.0.0", "@1.0.1"}},
		{"pulled", policy.Rules{Pulled: 3 * day}, []string{"1.0.1", "@1.0.1"}}, // what was pushed in this time stays, too,
		{"minors", policy.Rules{Minors: 2}, []string{"1.0.0", "1.0.1", "2.0.0-rc.1", "@1.0.0", "@1.0.1", "@2.0.0-rc.1"}},
		{"patches", policy.Rules{Minors: policy.AllMinors, Patches: 2}, []string{"2.0.0-rc.1", "@2.0.0-rc.1"}},
		{"every minor", policy.Rules{Minors: policy.AllMinors}, []string{"1.0.0", "2.0.0-rc.1", "@1.0.0", "@2.0.0-rc.1"}},
		{"any of them", policy.Rules{Newest: 1, Minors: 1, Pulled: 3 * day}, []string{"1.0.1", "@1.0.1"}},
		{"untagged only", policy.Rules{Untagged: day}, []string{"@untagged"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			seeds := map[oci.Digest]string{w.push(9, "untagged", nil, oci.Digest{}): "untagged", w.push(9, "other", nil, oci.Digest{}, "latest"): "other"}
			for i, tag := range []oci.Tag{"1.0.0", "1.0.1", "1.1.0", "1.10.0", "2.0.0-rc.1"} {
				d := w.push(5-i, string(tag), nil, oci.Digest{}, tag)
				seeds[d] = string(tag)
				if i == 0 {
					w.must(w.db.NotePulls(w.Context(), []meta.Pull{{Repository: app, Tag: tag, Digest: d, At: now.Add(-day)}}))
				}
			}
			w.policy(test.rules, "*.*")
			if got := w.drops(seeds); !slices.Equal(got, test.want) {
				t.Errorf("goes: %q, expected %q", got, test.want)
			}
		})
	}
}

// What something needs that stays, stays.
func TestNeeds(t *testing.T) {
	w := newWorld(t)
	none := oci.Digest{}
	seeds := make(map[oci.Digest]string)
	push := func(seed string, children []oci.Digest, subject oci.Digest, tags ...oci.Tag) oci.Digest {
		d := w.push(9, seed, children, subject, tags...)
		seeds[d] = seed
		return d
	}
	sig := func(d oci.Digest) oci.Tag { return oci.Tag("sha256-" + d.Encoded() + ".sig") }
	shared, own := push("shared", nil, none), push("own", nil, none)
	old := push("old", []oci.Digest{shared, own}, none, "old")
	push("new", []oci.Digest{shared}, none, "keep-new")
	push("signature", nil, none, sig(old))
	push("sbom", nil, old)
	push("signature of shared", nil, none, sig(shared))
	subject := push("subject", nil, none, "old-subject")
	push("kept referrer", nil, subject, "keep-referrer")
	held := push("held", nil, none, "old-protected")
	push("its sbom", nil, held)
	tags, err := policy.ParseTags([]string{"*-protected"})
	w.must(err)
	w.must(w.db.AddProtection(w.Context(), &meta.Protection{Protection: policy.Protection{Tags: tags}}))
	w.policy(policy.Rules{Pushed: day, Untagged: day}, "old*")
	want := []string{"@old", "@own", "@sbom", "@signature", "old", "old-subject", string(sig(old))}
	if got := w.drops(seeds); !slices.Equal(got, want) {
		t.Errorf("goes: %q, expected %q", got, want)
	}
}

// A run deletes no more than it may, and the next ones do the rest. What is frozen is left alone.
func TestLimitAndFreeze(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.push(9, fmt.Sprint(i), nil, oci.Digest{}, oci.Tag(fmt.Sprint("t", i)))
	}
	w.policy(policy.Rules{Pushed: day})
	run := func(limit int) Result {
		t.Helper()
		res, err := Run(w.Context(), w.db, Options{Now: now, Limit: limit})
		w.must(err)
		return res
	}
	w.must(w.db.SetFreeze(w.Context(), &meta.Freeze{Freeze: policy.Freeze{Organization: "team"}}))
	if res := run(100); res != (Result{}) {
		t.Errorf("frozen: %+v", res)
	}
	w.must(w.db.DeleteFreeze(w.Context(), "team"))
	if res := run(1); res != (Result{More: true}) {
		t.Errorf("nothing fits: %+v", res)
	}
	if res := run(5); res.Tags != 2 || res.Manifests != 2 || !res.More {
		t.Errorf("the first run: %+v", res)
	}
	if res := run(100); res.Tags != 3 || res.Manifests != 3 || res.More {
		t.Errorf("the second run: %+v", res)
	}
}

// What is more than the limit by itself gives up all tags but one, and does not stand in the way of what comes after it.
func TestGroupAboveLimit(t *testing.T) {
	index, image := oci.DigestBytes(oci.SHA256, []byte("index")), oci.DigestBytes(oci.SHA256, []byte("image"))
	line := func(tag oci.Tag, d, with oci.Digest) Item {
		return Item{Repository: "team/app", Tag: tag, Digest: d, With: with, Action: Drop}
	}
	var taken []oci.Tag
	e := Executor{Limit: 3, Do: func(_ oci.Repository, items []Item) error {
		for _, i := range items {
			taken = append(taken, i.Tag)
		}
		return nil
	}}
	for _, i := range []Item{line("1", index, index), line("2", image, index), line("", index, index), line("", image, index), line("alone", image, image)} {
		if err := e.Add(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if want := []oci.Tag{"1", "alone"}; !slices.Equal(taken, want) || !e.More {
		t.Errorf("taken: %q, more: %t; expected %q and more", taken, e.More, want)
	}
}
