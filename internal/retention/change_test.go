package retention

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// plan returns what goes.
func (w *world) plan() (items []Item) {
	w.Helper()
	w.must(NewPlanner(w.db, now).Plan(w.Context(), "team", func(i Item) error {
		if i.Action == Drop {
			items = append(items, i)
		}
		return nil
	}))
	return items
}

// execute carries out a plan, and returns how much of it went.
func (w *world) execute(items []Item) (gone int) {
	w.Helper()
	e := Executor{Do: func(r oci.Repository, items []Item) error {
		tags, manifests := Order(items)
		c, err := w.db.DeleteCascade(w.Context(), r, tags, manifests, nil, meta.Origin{Trash: true}, now)
		if err == nil {
			gone += len(c.Tags) + len(c.Manifests)
		}
		return err
	}}
	for _, i := range items {
		w.must(e.Add(i))
	}
	w.must(e.Close())
	return gone
}

func (w *world) has(d oci.Digest) bool {
	w.Helper()
	kept, err := w.db.Whereabouts(w.Context(), app, []oci.Digest{d})
	w.must(err)
	return kept[d] == meta.KeptInRepository
}

// An index and its parts: which of them have tags, and what a rule says of these, decides what goes. These are the cases of garbage collection that have
// broken images of several platforms elsewhere, and their reverse.
func TestIndexes(t *testing.T) {
	none := oci.Digest{}
	for _, test := range []struct {
		name string
		push func(push func(seed string, children []oci.Digest, tags ...oci.Tag) oci.Digest)
		want []string
	}{
		{"tagged index, untagged children", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("index", []oci.Digest{push("amd64", nil), push("arm64", nil)}, "keep")
		}, nil},
		{"tagged index that goes, untagged children", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("index", []oci.Digest{push("amd64", nil), push("arm64", nil)}, "old")
		}, []string{"@amd64", "@arm64", "@index", "old"}},
		{"untagged index, untagged children", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("index", []oci.Digest{push("amd64", nil), push("arm64", nil)})
		}, []string{"@amd64", "@arm64", "@index"}},
		{"untagged index, tagged child", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("index", []oci.Digest{push("amd64", nil, "keep"), push("arm64", nil)})
		}, []string{"@arm64", "@index"}},
		{"tagged index, child with a tag that goes", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("index", []oci.Digest{push("amd64", nil, "old"), push("arm64", nil)}, "keep")
		}, []string{"old"}},
		{"a child of an index that goes and of one that stays", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			shared := push("shared", nil)
			push("first", []oci.Digest{shared, push("own", nil)}, "old")
			push("second", []oci.Digest{shared}, "keep")
		}, []string{"@first", "@own", "old"}},
		{"a child of two that go", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			shared := push("shared", nil)
			push("first", []oci.Digest{shared}, "old")
			push("second", []oci.Digest{shared}, "older")
		}, []string{"@first", "@second", "@shared", "old", "older"}},
		{"an index within one that goes", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("outer", []oci.Digest{push("inner", []oci.Digest{push("amd64", nil)})}, "old")
		}, []string{"@amd64", "@inner", "@outer", "old"}},
		{"an index within one that goes, with a tag that stays", func(push func(string, []oci.Digest, ...oci.Tag) oci.Digest) {
			push("outer", []oci.Digest{push("inner", []oci.Digest{push("amd64", nil)}, "keep")}, "old")
		}, []string{"@outer", "old"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			seeds := make(map[oci.Digest]string)
			test.push(func(seed string, children []oci.Digest, tags ...oci.Tag) oci.Digest {
				d := w.push(9, seed, children, none, tags...)
				seeds[d] = seed
				return d
			})
			w.policy(policy.Rules{Pushed: day, Untagged: day}, "old*")
			if got := w.drops(seeds); !slices.Equal(got, test.want) {
				t.Errorf("goes: %q, expected %q", got, test.want)
			}
		})
	}
}

// What is pushed, pulled, protected or taken back after a plan was made stays, however old the plan.
func TestOldPlan(t *testing.T) {
	none := oci.Digest{}
	for name, change := range map[string]func(w *world, image, index, part oci.Digest){
		"pushed again":     func(w *world, image, _, _ oci.Digest) { w.push(0, "image", nil, none, "image") },
		"pulled by tag":    func(w *world, image, _, _ oci.Digest) { w.pull("image", image) },
		"pulled by digest": func(w *world, image, _, _ oci.Digest) { w.pull("", image) },
		"tagged":           func(w *world, image, _, _ oci.Digest) { w.push(0, "image", nil, none, "other") },
		"protected": func(w *world, _, _, _ oci.Digest) {
			tags, err := policy.ParseTags([]string{"image"})
			w.must(err)
			w.must(w.db.AddProtection(w.Context(), &meta.Protection{Protection: policy.Protection{Tags: tags}}))
		},
		"part of an index": func(w *world, image, _, _ oci.Digest) { w.push(0, "new", []oci.Digest{image}, none, "new") },
		"deleted and undeleted": func(w *world, image, _, _ oci.Digest) {
			w.must(w.db.DeleteManifest(w.Context(), app, image, nil, meta.Origin{Trash: true}, now))
			_, err := w.db.Undelete(w.Context(), app, image, nil, meta.Origin{}, now)
			w.must(err)
		},
		"deleted by the plan and undeleted": func(w *world, image, _, _ oci.Digest) {
			w.execute(w.plan())
			if w.has(image) {
				w.Fatal("the plan did nothing")
			}
			_, err := w.db.Undelete(w.Context(), app, image, nil, meta.Origin{}, now.Add(time.Second))
			w.must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			part := w.push(9, "part", nil, none)
			index := w.push(9, "index", []oci.Digest{part}, none, "index")
			image := w.push(9, "image", nil, none, "image")
			w.policy(policy.Rules{Pulled: day})
			items := w.plan()
			if len(items) != 5 {
				t.Fatalf("the plan is %+v", items)
			}
			change(w, image, index, part)
			w.execute(items)
			if !w.has(image) || w.has(index) || w.has(part) {
				t.Errorf("image: %t, index: %t, part: %t, expected the image alone", w.has(image), w.has(index), w.has(part))
			}
			if name == "tagged" || name == "part of an index" || name == "pulled by digest" {
				return
			}
			if tags, err := w.db.Tags(w.Context(), app, "", 10); err != nil || !slices.Contains(tags, "image") {
				t.Errorf("tags: %q, %v", tags, err)
			}
		})
	}
}

func (w *world) pull(tag oci.Tag, d oci.Digest) {
	w.Helper()
	w.must(w.db.NotePulls(w.Context(), []meta.Pull{{Repository: app, Tag: tag, Digest: d, At: now}}))
}

// A part that is pushed again, for an index that is on its way, stays, though its old index goes.
func TestPartPushedAgain(t *testing.T) {
	w := newWorld(t)
	part := w.push(9, "part", nil, oci.Digest{})
	w.push(9, "index", []oci.Digest{part}, oci.Digest{}, "old")
	w.policy(policy.Rules{Pushed: day, Untagged: day})
	items := w.plan()
	w.push(0, "part", nil, oci.Digest{})
	w.execute(items)
	if !w.has(part) {
		t.Error("an old plan took it")
	}
	w.drops(nil)
	if !w.has(part) {
		t.Error("a new plan took it")
	}
}

// A signature that arrives before what it signs is its own at first; once that is there, it goes with it and no sooner.
func TestSignatureBeforeImage(t *testing.T) {
	w := newWorld(t)
	none := oci.Digest{}
	image := w.push(9, "image", nil, none, "keep")
	w.must(w.db.DeleteManifest(w.Context(), app, image, nil, meta.Origin{}, now.Add(-8*day)))
	signature := w.push(7, "signature", nil, none, oci.Tag("sha256-"+image.Encoded()+".sig"))
	w.push(7, "other", nil, none, "keep-other")
	w.policy(policy.Rules{Pushed: day}, "!keep*")
	items := w.plan()
	if len(items) != 2 {
		t.Fatalf("the plan is %+v", items)
	}
	w.push(0, "image", nil, none, "keep")
	w.execute(items)
	if !w.has(signature) {
		t.Error("an old plan took the signature of what is there")
	}
	if got := w.drops(nil); len(got) != 0 {
		t.Errorf("goes: %q", got)
	}
}

// As long as it is not known what was pulled, no rule about pulls lets anything go.
func TestPullsBeforeTheyWereNoted(t *testing.T) {
	w := newWorld(t)
	w.push(200, "a", nil, oci.Digest{}, "a")
	w.push(200, "untagged", nil, oci.Digest{})
	w.policy(policy.Rules{Pulled: 150 * day, Untagged: 150 * day})
	if items := w.plan(); len(items) != 0 {
		t.Errorf("goes: %+v", items)
	}
	w.policy(policy.Rules{Pulled: 99 * day})
	if items := w.plan(); len(items) != 0 {
		t.Errorf("goes by the shorter of two rules: %+v", items)
	}
}

// The time without a tag begins when the last tag, or the index, has gone.
func TestUntaggedSince(t *testing.T) {
	w := newWorld(t)
	none := oci.Digest{}
	at := func(age int) time.Time { return now.Add(-time.Duration(age) * day) }
	first := w.push(20, "first", nil, none, "latest", "gone")
	w.must(w.db.DeleteTag(w.Context(), app, "gone", meta.Origin{}, at(2)))
	w.push(3, "second", nil, none, "latest")
	part := w.push(20, "part", nil, none)
	index := w.push(20, "index", []oci.Digest{part}, none)
	referrer := w.push(20, "referrer", nil, index)
	w.must(w.db.DeleteManifest(w.Context(), app, index, nil, meta.Origin{}, at(2)))
	w.policy(policy.Rules{Untagged: 4 * day})
	if got := w.drops(nil); len(got) != 0 {
		t.Errorf("goes: %q", got)
	}
	now := now
	now = now.Add(2*day + time.Second)
	res, err := Run(w.Context(), w.db, Options{Now: now})
	w.must(err)
	if res.Manifests != 3 || w.has(first) || w.has(part) || w.has(referrer) {
		t.Errorf("later: %+v", res)
	}
}

// However often a run is cut off, at whatever point, in the end the same is left.
func TestCutOff(t *testing.T) {
	none := oci.Digest{}
	build := func(w *world) {
		var shared oci.Digest
		for i := range 6 {
			name := fmt.Sprint(i)
			next := w.push(9, "shared"+name, nil, none)
			parts := []oci.Digest{next}
			if !shared.IsZero() {
				parts = append(parts, shared)
			}
			shared = next
			d := w.push(9, "index"+name, parts, none, oci.Tag("a"+name), oci.Tag("b"+name), oci.Tag("c"+name))
			sbom := w.push(9, "sbom"+name, nil, d)
			w.push(9, "signature of the sbom"+name, nil, sbom)
			w.push(9, "signature"+name, nil, none, oci.Tag("sha256-"+d.Encoded()+".sig"))
		}
		w.push(9, "kept", []oci.Digest{shared}, none, "kept")
		w.policy(policy.Rules{Pushed: day}, "!kept")
	}
	left := func(w *world) (all []string) {
		all = append(all, "kept", "shared5")
		manifests, err := w.db.ManifestTimes(w.Context(), app, "", 1000)
		w.must(err)
		if len(manifests) != len(all) {
			w.Errorf("%d manifests are left, expected %d", len(manifests), len(all))
		}
		tags, err := w.db.Tags(w.Context(), app, "", 1000)
		w.must(err)
		if !slices.Equal(tags, []string{"kept"}) {
			w.Errorf("tags are left: %q", tags)
		}
		return all
	}
	for _, limit := range []int{0, 8, 9, 10, 15, 40} { // a group has up to 10
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			w := newWorld(t)
			build(w)
			for range 20 {
				res, err := Run(w.Context(), w.db, Options{Now: now, Limit: limit})
				w.must(err)
				if limit > 0 && res.Tags+res.Manifests > int64(limit) {
					t.Fatalf("%+v with a limit of %d", res, limit)
				}
				if !res.More {
					break
				}
			}
			left(w)
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		w := newWorld(t)
		build(w)
		for n := range 20 {
			ctx, cancel := context.WithCancel(w.Context())
			parts := 0
			_, err := Run(ctx, w.db, Options{Now: now, Flush: func(context.Context) error {
				if parts++; parts > n {
					cancel()
				}
				return nil
			}})
			cancel()
			if err == nil {
				break
			}
		}
		left(w)
	})
}

// Whoever removes a policy in the middle of a run has its way.
func TestPolicyRemovedMeanwhile(t *testing.T) {
	w := newWorld(t)
	d := w.push(9, "a", nil, oci.Digest{}, "a")
	w.policy(policy.Rules{Pushed: day})
	calls := 0
	res, err := Run(w.Context(), w.db, Options{Now: now, Flush: func(ctx context.Context) error {
		if calls++; calls == 2 {
			all, err := w.db.Retentions(ctx, "team", 0, 10)
			w.must(err)
			w.must(w.db.DeleteRetention(ctx, "team", all[0].ID))
		}
		return nil
	}})
	w.must(err)
	if calls != 2 || res.Tags+res.Manifests != 0 || !res.More || !w.has(d) {
		t.Errorf("%+v after %d calls", res, calls)
	}
}

// An organization whose name begins as that of another one is another one.
func TestOrganizationWithTheSameBeginning(t *testing.T) {
	w := newWorld(t)
	w.push(9, "a", nil, oci.Digest{}, "a")
	w.must(w.db.AddRetention(w.Context(), &meta.Retention{Retention: policy.Retention{Organization: "tea", Rules: policy.Rules{Pushed: day}}}))
	w.must(w.db.AddRetention(w.Context(), &meta.Retention{Retention: policy.Retention{Organization: "team2", Rules: policy.Rules{Pushed: day}}}))
	if items := w.plan(); len(items) != 0 {
		t.Errorf("goes: %+v", items)
	}
	w.policy(policy.Rules{Pushed: day})
	for _, organization := range []string{"tea", "team/", "team2"} {
		w.must(NewPlanner(w.db, now).Plan(w.Context(), organization, func(i Item) error { return fmt.Errorf("a line: %+v", i) }))
	}
	if items := w.plan(); len(items) != 2 {
		t.Errorf("goes: %+v", items)
	}
}
