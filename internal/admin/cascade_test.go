package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// Who deletes needs the right for every tag that goes, and each manifest and tag that went is in the audit log.
func TestCascade(t *testing.T) {
	w := newWorld(t)
	w.organization("team", "")
	_, admin := w.administrator("root")
	push := func(body string, tags ...oci.Tag) oci.Digest {
		t.Helper()
		parsed, err := oci.ParseManifest(oci.MediaTypeIndex, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		d := oci.DigestBytes(oci.SHA256, []byte(body))
		if _, err := w.db.PutManifest(w.Context(), meta.NewManifest{Repository: "team/app", Digest: d, Parsed: parsed, Body: []byte(body), Tags: tags, Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	const head = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]`
	d := push(head+`}`, "v1")
	push(head+`,"annotations":{"a":"b"}}`, oci.Tag("sha256-"+d.Encoded()+".sig"))

	cleaner := w.token(w.user("cleaner", nil), nil)
	w.grant("team", "cleaner", access.Maintainer)
	var plan Cascade
	w.want(200, cleaner, "GET", "cascade/team/app?tag=v1", "", &plan)
	if len(plan.Tags) != 2 || len(plan.Manifests) != 2 || len(plan.Kept) != 0 {
		t.Fatalf("the plan is %+v", plan)
	}
	for path, status := range map[string]int{"?tag=v2": 404, "": 400, "?tag=v1&digest=" + d.String(): 400, "?tag=-": 400, "?digest=x": 400} {
		if a := w.do(admin, "GET", Prefix+"cascade/team/app"+path, ""); a.StatusCode != status {
			t.Errorf("%s: status %d, expected %d: %s", path, a.StatusCode, status, a.body)
		}
	}
	order := `{"tags":[{"tag":"v1","digest":"` + d.String() + `"}],"manifests":[{"digest":"` + d.String() + `"}]}`
	var done Cascade
	w.want(200, admin, "POST", "cascade/team/app", order, &done) // without the signature, which was part of the plan
	if len(done.Tags) != 1 || len(done.Manifests) != 0 || len(done.Kept) != 1 || !strings.Contains(done.Kept[0].Why, ".sig") {
		t.Errorf("what has a signature that stays has gone: %+v", done)
	}
	var digests []string
	for _, m := range plan.Manifests {
		digests = append(digests, `{"digest":"`+m.Digest.String()+`"}`)
	}
	order = `{"tags":[{"tag":"v1","digest":"` + d.String() + `"},{"tag":"` + string(plan.Tags[0].Tag) + `","digest":"` + plan.Tags[0].Digest.String() + `"}],"manifests":[` + strings.Join(digests, ",") + `]}`
	w.want(200, admin, "POST", "cascade/team/app", order, &done)
	if len(done.Tags) != 1 || len(done.Manifests) != 2 {
		t.Errorf("went: %+v", done)
	}
	w.want(200, admin, "POST", "cascade/team/app", order, &done)
	if len(done.Tags)+len(done.Manifests) != 0 {
		t.Errorf("went again: %+v", done)
	}
	entries, _, err := w.db.Audit(w.Context(), meta.AuditFilter{Object: "team/app"}, meta.AuditPlace{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	deletes := 0
	for _, e := range entries {
		if e.Action == "delete" && e.Actor == "root" {
			deletes++
		}
	}
	if deletes != 4 {
		t.Errorf("%d deletes are in the audit log: %+v", deletes, entries)
	}
}
