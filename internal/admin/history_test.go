package admin

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// push sets tags of a repository to a manifest that note makes unique, and returns its digest.
func (w *world) push(r oci.Repository, note string, tags ...oci.Tag) string {
	w.Helper()
	body := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[],"annotations":{"note":%q}}`, oci.MediaTypeIndex, note)
	parsed, err := oci.ParseManifest("", body)
	if err != nil {
		w.Fatal(err)
	}
	d := oci.DigestBytes(oci.SHA256, body)
	if _, err := w.db.PutManifest(w.Context(), meta.NewManifest{
		Repository: r, Digest: d, Parsed: parsed, Body: body, Tags: tags, Origin: meta.Origin{Actor: "pusher", Method: "push"}, Now: time.Now(),
	}); err != nil {
		w.Fatal(err)
	}
	return d.String()
}

// moment is a time between what was done before and what is done after.
func (w *world) moment() string {
	time.Sleep(2 * time.Millisecond) // the precision of the log is one
	s := time.Now().UTC().Format(time.RFC3339Nano)
	time.Sleep(2 * time.Millisecond)
	return s
}

// tags returns what the tags of a repository point to.
func (w *world) tags(r oci.Repository) map[string]string {
	w.Helper()
	changes, _, err := w.db.TagChanges(w.Context(), r, time.Time{}, time.Time{}, "", 1000)
	if err != nil {
		w.Fatal(err)
	}
	found := make(map[string]string)
	for _, c := range changes {
		found[string(c.To.Tag)] = c.To.Digest.String()
	}
	return found
}

// pages gets all of a list, n at a time.
func pages[T any](w *world, by who, path string, n int) (all []T) {
	w.Helper()
	for after, rounds := "", 0; ; rounds++ {
		var p Page[T]
		w.want(200, by, "GET", fmt.Sprintf("%s&n=%d&after=%s", path, n, url.QueryEscape(after)), "", &p)
		if len(p.Items) > n || rounds > 1000 {
			w.Fatalf("%d items in a page of %d", len(p.Items), n)
		}
		all = append(all, p.Items...)
		if after = p.Next; after == "" {
			return all
		}
	}
}

// historyCast makes people with the roles of their names in the organization team, and somebody who has no grant.
func historyCast(w *world) (reader, writer, maintainer, nobody who) {
	w.Helper()
	w.organization("team", "")
	w.organization("other", "")
	for name, to := range map[string]*who{"reader": &reader, "writer": &writer, "maintainer": &maintainer, "nobody": &nobody} {
		*to = w.token(w.user(name, nil), nil)
	}
	w.grant("team", "reader", access.Reader)
	w.grant("team", "writer", access.Writer)
	w.grant("team", "maintainer", access.Maintainer)
	return reader, writer, maintainer, nobody
}

// What a restore does is what the plan says, for each tag what the caller may.
func TestRestore(t *testing.T) {
	w := newWorld(t)
	reader, writer, maintainer, nobody := historyCast(w)
	var before = map[oci.Repository]map[string]string{}
	for _, r := range []oci.Repository{"team/a", "team/b", "team/c", "other/a"} {
		w.push(r, "one", "x", "y")
		w.push(r, "gone", "gone")
		before[r] = w.tags(r)
	}
	at := w.moment()
	for _, r := range []oci.Repository{"team/a", "team/b", "other/a"} {
		w.push(r, "two", "y", "z")
		d, err := oci.ParseDigest(before[r]["gone"])
		if err != nil {
			t.Fatal(err)
		}
		if err := w.db.DeleteManifest(t.Context(), r, d, nil, meta.Origin{Trash: r == "team/a"}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	query := "scope=&at=" + at
	show := func(items []Restore) string {
		s := ""
		for _, v := range items {
			s += fmt.Sprintf("%s:%s %t %t %s %t\n", v.Repository, v.Tag, v.Now != "", v.Then != "", v.Kept, v.Problem != "")
		}
		return s
	}
	const want = `team/a:gone false true trash false
team/a:y true true repository false
team/a:z true false  false
team/b:gone false true gone true
team/b:y true true repository false
team/b:z true false  false
`
	for _, n := range []int{1, 2, 100} {
		if got := show(pages[Restore](w, maintainer, "history/restore?"+query, n)); got != want {
			t.Errorf("the plan in pages of %d is\n%s, want\n%s", n, got, want)
		}
	}
	if got := show(pages[Restore](w, maintainer, "history/restore?keep_new=true&"+query, 100)); strings.Contains(got, ":z ") {
		t.Errorf("new tags are not kept:\n%s", got)
	}
	// A writer may not delete, a reader may do nothing, and nobody sees anything.
	if got := show(pages[Restore](w, writer, "history/restore?"+query, 100)); strings.Count(got, " true\n") != 3 || !strings.Contains(got, "team/a:z true false  true") {
		t.Errorf("the plan for a writer is\n%s", got)
	}
	if got := show(pages[Restore](w, reader, "history/restore?"+query, 100)); strings.Count(got, " true\n") != 6 {
		t.Errorf("the plan for a reader is\n%s", got)
	}
	if got := pages[Restore](w, nobody, "history/restore?"+query, 100); len(got) > 0 {
		t.Errorf("the plan for nobody is %v", got)
	}
	diff := pages[TagDiff](w, reader, "history/changes?scope=team/&from="+at, 1)
	if len(diff) != 6 || diff[0].To != "" || diff[1].From == diff[1].To || diff[2].From != "" {
		t.Errorf("%+v", diff)
	}
	if got := pages[TagDiff](w, nobody, "history/changes?scope=team/&from="+at, 1); len(got) > 0 {
		t.Errorf("nobody sees %+v", got)
	}
	var p Page[Restore]
	body := `{"scope":"team/","at":"` + at + `"}`
	before["unchanged"] = w.tags("team/a")
	w.want(200, reader, "POST", "history/restore", body, &p)
	if got := w.tags("team/a"); fmt.Sprint(got) != fmt.Sprint(before["unchanged"]) {
		t.Errorf("a reader has changed the tags to %v", got)
	}
	p = Page[Restore]{}
	w.want(200, maintainer, "POST", "history/restore", body, &p)
	if got := show(p.Items); got != want || p.Next != "" {
		t.Errorf("done was\n%s, want\n%s", got, want)
	}
	if got := w.tags("team/a"); fmt.Sprint(got) != fmt.Sprint(before["team/a"]) && len(got) != 4 {
		t.Errorf("the tags are %v, want %v", got, before["team/a"])
	}
	p = Page[Restore]{}
	w.want(200, maintainer, "POST", "history/restore", body, &p)
	if len(p.Items) != 1 || p.Items[0].Tag != "gone" {
		t.Errorf("again it does %+v", p.Items)
	}
	moves := pages[Move](w, reader, "history/moves?repository=team/a", 2)
	if m := moves[0]; len(moves) != 9 || m.Actor != "maintainer" || m.Method != "restore" || m.Credential == "" {
		t.Errorf("%d moves, %+v", len(moves), moves)
	}
	entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{Action: "restore", Object: "team/a"}, meta.AuditPlace{}, 100)
	if err != nil || len(entries) != 3 {
		t.Errorf("the audit log has %d entries, %v", len(entries), err)
	}
	for body, status := range map[string]int{
		`{"scope":"team/","at":"2999-01-01T00:00:00Z"}`: 400, `{"scope":"team/"}`: 400, `{"scope":"TEAM","at":"` + at + `"}`: 400,
		`{"scope":"team/a","at":"yesterday"}`: 400, `{"scope":"team/","at":"` + at + `","after":"//"}`: 400, `{"scope":"team/a","tag":"-","at":"` + at + `"}`: 400,
	} {
		w.want(status, maintainer, "POST", "history/restore", body, nil)
	}
}

// Who moved what is for members, not for everybody who may pull; what was where is.
func TestHistoryOfPublicRepository(t *testing.T) {
	w := newWorld(t)
	reader, _, _, nobody := historyCast(w)
	d := w.push("team/a", "one", "x")
	yes := true
	if err := w.db.SetRepositoryPublic(t.Context(), "team/a", &yes); err != nil {
		t.Fatal(err)
	}
	at := w.moment()
	w.want(403, nobody, "GET", "history/moves?repository=team/a", "", nil)
	w.want(403, nobody, "GET", "trash?scope=team/a", "", nil)
	w.want(200, reader, "GET", "history/moves?repository=team/a", "", nil)
	var p Page[TagAt]
	w.want(200, nobody, "GET", "history/tags?scope=team/a&tag=x&at="+at, "", &p)
	if len(p.Items) != 1 || p.Items[0].Digest != d || p.Items[0].Kept != meta.KeptInRepository {
		t.Errorf("%+v", p)
	}
	w.want(404, nobody, "GET", "history/tags?scope=team/a&tag=nosuch&at="+at, "", nil)
	if got := pages[TagAt](w, nobody, "history/tags?scope=&at="+at, 1); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// Who may see nothing of many repositories does not hear their names by the place at which the list of them goes on.
func TestPlacesDoNotTellNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, _, _, nobody := historyCast(w)
	var pushes errgroup.Group
	pushes.SetLimit(32)
	body := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	parsed, err := oci.ParseManifest("", body)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxScope + 1 {
		pushes.Go(func() error {
			_, err := w.db.PutManifest(t.Context(), meta.NewManifest{Repository: oci.Repository(fmt.Sprint("team/secret", i)), Digest: oci.DigestBytes(oci.SHA256, body),
				Parsed: parsed, Body: body, Tags: []oci.Tag{"x"}, Origin: meta.Origin{Actor: "pusher", Method: "push"}, Now: time.Now()})
			return err
		})
	}
	if err := pushes.Wait(); err != nil {
		t.Fatal(err)
	}
	var p Page[TagAt]
	w.want(200, nobody, "GET", "history/tags?scope=", "", &p)
	if len(p.Items) != 0 || p.Next == "" || strings.Contains(p.Next, "secret") {
		t.Errorf("%+v", p)
	}
	next := p.Next
	p = Page[TagAt]{}
	w.want(200, nobody, "GET", "history/tags?scope=&after="+url.QueryEscape(next), "", &p)
	if len(p.Items) != 0 || p.Next != "" {
		t.Errorf("%+v", p)
	}
	w.want(400, nobody, "GET", "history/tags?scope=&after=~forged", "", nil)
}

// A deleted repository lies in the trash for who may see who deleted it, is taken back by who may push, and is emptied by who may delete.
func TestTrash(t *testing.T) {
	w := newWorld(t)
	reader, writer, maintainer, nobody := historyCast(w)
	const images = 130 // more than a batch
	for i := range images {
		w.push("team/a", fmt.Sprint(i), oci.Tag(fmt.Sprint("t", i)), "latest")
	}
	w.push("team/b", "b", "b")
	before := w.tags("team/a")
	var held Contents
	w.want(200, reader, "GET", "contents/team/a", "", &held)
	if held.Manifests != images || held.Tags != images+1 {
		t.Errorf("%+v", held)
	}
	w.push("team/a", "late", "late")
	path := fmt.Sprintf("repositories/team/a?through=%d", held.Through)
	w.want(403, writer, "DELETE", path, "", nil)
	w.want(400, maintainer, "DELETE", "repositories/team/a", "", nil)
	w.want(400, maintainer, "DELETE", "repositories/team/a?deletion=1-1", "", nil)
	var d Deletion
	w.want(200, maintainer, "DELETE", path, "", &d)
	if d.Deleted != images || d.Next != "" {
		t.Errorf("%+v", d)
	}
	if got := w.tags("team/a"); len(got) != 1 || got["late"] == "" {
		t.Errorf("left is %v", got)
	}
	if got := pages[Trashed](w, nobody, "trash?scope=", 10); len(got) > 0 {
		t.Errorf("nobody sees %v", got)
	}
	trash := pages[Trashed](w, reader, "trash?scope=team/", 7)
	if len(trash) != images || trash[0].Actor != "maintainer" || trash[0].Expires.Sub(trash[0].Deleted) != time.Hour {
		t.Errorf("%d in the trash: %+v", len(trash), trash[:1])
	}
	var u Page[Undeleted]
	w.want(200, reader, "POST", "trash/undelete", `{"repository":"team/a"}`, &u)
	if len(u.Items) == 0 || slices.ContainsFunc(u.Items, func(u Undeleted) bool { return u.Problem == "" }) {
		t.Errorf("a reader takes back %+v", u.Items)
	}
	w.want(403, reader, "POST", "trash/undelete", `{"repository":"team/a","digest":"`+trash[0].Digest+`"}`, nil)
	w.want(200, writer, "POST", "trash/undelete", `{"repository":"team/a","digest":"`+trash[0].Digest+`"}`, nil)
	w.want(404, writer, "POST", "trash/undelete", `{"repository":"team/a","digest":"`+trash[0].Digest+`"}`, nil)
	for after := ""; ; {
		u = Page[Undeleted]{}
		w.want(200, writer, "POST", "trash/undelete", `{"repository":"team/a","after":"`+after+`"}`, &u)
		if after = u.Next; after == "" {
			break
		}
	}
	after := w.tags("team/a")
	delete(after, "late")
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the tags are %v, want %v", after, before)
	}
	w.want(200, maintainer, "DELETE", path, "", nil)
	w.want(403, writer, "POST", "trash/empty", `{"scope":"team/a"}`, nil)
	var e Page[Emptied]
	w.want(200, writer, "POST", "trash/empty", `{"scope":"team/"}`, &e)
	if len(e.Items) != 1 || e.Items[0].Problem == "" || e.Items[0].Manifests != 0 {
		t.Errorf("%+v", e)
	}
	e = Page[Emptied]{}
	w.want(200, maintainer, "POST", "trash/empty", `{"scope":"team/"}`, &e)
	if len(e.Items) != 1 || e.Items[0].Manifests != images {
		t.Errorf("%+v", e)
	}
	w.want(404, writer, "POST", "trash/undelete", `{"repository":"team/a","tag":"t1"}`, nil)
	w.want(409, writer, "POST", "trash/undelete", `{"repository":"team/a","tag":"late"}`, nil)
	w.want(400, maintainer, "POST", "trash/empty", `{"scope":"team/","digest":"`+trash[0].Digest+`"}`, nil)
	entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{Action: "trash.empty"}, meta.AuditPlace{}, 100)
	if err != nil || len(entries) < 3 {
		t.Errorf("the audit log has %d entries, %v", len(entries), err)
	}
}

// Without access control there are no accounts, and everybody may do to content what they may by pushing and deleting.
func TestWithoutAccessControl(t *testing.T) {
	w := newWorld(t)
	reg, err := registry.New(t.Context(), w.db, nil, registry.Options{Delete: true, Trash: true})
	if err != nil {
		t.Fatal(err)
	}
	server := web.NewServer(web.Options{Log: w.h.opts.Log, Idle: time.Minute})
	h := New(Options{DB: w.db, Registry: reg, Log: w.h.opts.Log, Client: server.Client})
	s := httptest.NewServer(server.Handler(h.Serve))
	t.Cleanup(s.Close)
	w.url = s.URL
	for _, r := range routes {
		if r.right != rightContent && !r.isPolicy() {
			path := strings.NewReplacer("{repository...}", "a/b", "{", "", "}", "").Replace(r.path)
			w.want(404, who{}, r.method, path, "", nil)
		}
	}
	one := w.push("a/b", "one", "x")
	at := w.moment()
	w.push("a/b", "two", "x")
	w.want(200, who{}, "POST", "history/restore", `{"scope":"a/b","tag":"x"}`, nil)
	if got := w.tags("a/b"); got["x"] != one {
		t.Errorf("the tags are %v", got)
	}
	moves := pages[Move](w, who{}, "history/moves?repository=a/b", 10)
	if len(moves) != 3 || moves[0].Actor != "anonymous@127.0.0.1" {
		t.Errorf("%+v", moves)
	}
	w.want(200, who{}, "DELETE", "repositories/a/b?through=1000", "", nil)
	w.want(200, who{}, "POST", "trash/undelete", `{"repository":"a/b"}`, nil)
	if got := pages[Restore](w, who{}, "history/restore?scope=&at="+at, 10); len(got) > 0 {
		t.Errorf("the plan is %+v", got)
	}
	if entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 10); err != nil || len(entries) > 0 {
		t.Errorf("the audit log has %v, %v", entries, err)
	}
}
