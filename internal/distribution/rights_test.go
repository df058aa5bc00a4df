package distribution

import (
	"net/http"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// CVE-2026-35172: caches grant no access. What was pulled a moment ago is refused when the right is gone, and gone when it was deleted.
func TestCachesGrantNoAccess(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	layer := "/v2/team/app/blobs/" + digest(g.image.layer)
	paths := []string{"/v2/team/app/manifests/1.0", "/v2/team/app/manifests/" + g.image.digest.String(), layer, "/v2/team/app/tags/list", "/v2/team/app/referrers/" + g.image.digest.String()}
	pull := func(status int, header []string) {
		t.Helper()
		for _, path := range paths {
			for range 2 { // the second time out of every cache that there is
				g.want(status, "GET", path, "", header...)
			}
		}
	}
	reader, token := g.header("reader"), g.bearer("reader", "repository:team/app:pull")
	pull(200, reader)
	pull(200, token)
	grants, err := g.db.Grants(t.Context(), meta.GrantFilter{Organization: "team", Account: "reader"}, 0, 10)
	if err != nil || len(grants) != 1 {
		t.Fatalf("%v, %v", grants, err)
	}
	if err := g.db.DeleteGrant(t.Context(), "team", grants[0].ID); err != nil {
		t.Fatal(err)
	}
	pull(404, reader)
	pull(404, token)
	pull(200, g.header("writer")) // whose right stands, before and after others were refused
	pull(404, reader)

	// A public repository becomes private.
	public := func(yes bool) {
		t.Helper()
		if err := g.db.SetRepositoryPublic(t.Context(), "team/app", &yes); err != nil {
			t.Fatal(err)
		}
	}
	public(true)
	pull(200, nil)
	public(false)
	pull(401, nil)
	pull(404, reader)

	// A blob that is deleted stays away, from those who have pulled it, too.
	d := digest("alone")
	g.want(201, "POST", "/v2/team/app/blobs/uploads/?digest="+d, "alone", g.header("root")...)
	for _, status := range []int{200, 404} {
		for _, account := range []string{"writer", "maintainer", "root"} {
			g.want(status, "GET", "/v2/team/app/blobs/"+d, "", g.header(account)...)
		}
		if status == 200 {
			g.want(202, "DELETE", "/v2/team/app/blobs/"+d, "", g.header("maintainer")...)
		}
	}
}

// CVE-2026-41888: who may not delete, deletes neither tags nor manifests nor blobs, by whatever way.
func TestDeletionIsARightOfItsOwnForTagsManifestsAndBlobs(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	d := digest("alone")
	g.want(201, "POST", "/v2/team/app/blobs/uploads/?digest="+d, "alone", g.header("root")...)
	things := []string{"/v2/team/app/manifests/0.9", "/v2/team/app/manifests/" + g.image.digest.String(), "/v2/team/app/blobs/" + d}
	for _, account := range []string{"reader", "writer", "pusher"} {
		for _, header := range [][]string{g.header(account), g.bearer(account, "repository:team/app:*"), g.bearer(account, "repository:team/app:pull,push,delete")} {
			for _, path := range things {
				if a := g.do("DELETE", path, "", header...); a.StatusCode != http.StatusForbidden && a.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s deletes %s: %d %s", account, path, a.StatusCode, a.body)
				}
			}
		}
	}
	for _, path := range things {
		g.want(200, "HEAD", path, "", g.header("reader")...)
		g.want(202, "DELETE", path, "", g.header("deleter")...)
		g.want(404, "HEAD", path, "", g.header("reader")...)
	}
}

// A push that takes longer than its token lives completes: the session is bound to who began it. The token serves for nothing else, and for nobody
// whose rights are gone.
func TestPushOutlivesItsToken(t *testing.T) {
	t.Parallel()
	g := newGuarded(t)
	token := g.bearer("writer", "repository:team/app:pull,push")
	begin := func() string {
		t.Helper()
		at := g.want(202, "POST", "/v2/team/app/blobs/uploads/", "", token...).Header.Get("Location")
		return g.want(202, "PATCH", at, "first ", token...).Header.Get("Location")
	}
	end := func(status int, at, body string, header ...string) {
		t.Helper()
		g.want(status, "PUT", at+"&digest="+digest(body), "", header...)
	}
	at, other, third := begin(), begin(), begin()
	g.late.Add(int64(2 * time.Minute))
	at = g.want(202, "PATCH", at, "second", token...).Header.Get("Location")
	end(201, at, "first second", token...)
	for method, path := range map[string]string{"GET": "/v2/team/app/manifests/1.0", "POST": "/v2/team/app/blobs/uploads/", "HEAD": "/v2/team/app/blobs/" + digest(g.image.layer)} {
		g.want(401, method, path, "", token...)
	}
	g.want(401, "PUT", "/v2/team/app/manifests/new", g.older.body, append(token, "Content-Type", oci.MediaTypeImage)...)
	// Somebody else's token of the same age.
	g.late.Add(int64(-2 * time.Minute))
	stale := g.bearer("owner", "repository:team/app:pull,push")
	g.late.Add(int64(2 * time.Minute))
	g.want(404, "PATCH", other, "second", stale...)
	// With a new token of the same account it goes on, too.
	end(201, other, "first ", g.bearer("writer", "repository:team/app:pull,push")...)
	// The right is gone meanwhile.
	if err := g.db.ChangeAccount(t.Context(), "writer", func(a *meta.Account) error { a.Disabled = true; return nil }); err != nil {
		t.Fatal(err)
	}
	end(401, third, "first ", token...)
	if err := g.db.ChangeAccount(t.Context(), "writer", func(a *meta.Account) error { a.Disabled = false; return nil }); err != nil {
		t.Fatal(err)
	}
	// A day later nothing goes on by the old token.
	g.late.Add(int64(25 * time.Hour))
	end(401, third, "first ", token...)
	end(201, third, "first ", g.header("writer")...)
}
