package admin

import (
	"fmt"
	"testing"

	"github.com/berthregistry/berth/internal/meta"
)

func TestUsageInPages(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	for i := range 5 {
		w.repository(fmt.Sprintf("org%d/app", i))
		w.repository(fmt.Sprintf("team/app%d", i))
	}
	var all []string
	for after := ""; ; {
		var p Page[Usage]
		w.want(200, root, "GET", "usage?n=2&after="+after, "", &p)
		for _, u := range p.Items {
			all = append(all, fmt.Sprint(u.Organization, u.Repositories, u.Tags, u.Bytes == u.Deduplicated))
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if got := fmt.Sprint(all); got != "[org01 1 true org11 1 true org21 1 true org31 1 true org41 1 true team5 5 true]" {
		t.Errorf("the list of usage is %s", got)
	}
	var names []string
	for after := ""; ; {
		var p Page[RepositoryUsage]
		w.want(200, root, "GET", "organizations/team/usage/repositories?n=2&after="+after, "", &p)
		for _, u := range p.Items {
			names = append(names, u.Repository)
			if u.Alone == 0 || u.Alone != u.Bytes || u.Manifests != 1 {
				t.Errorf("%+v", u)
			}
		}
		if after = p.Next; after == "" {
			break
		}
	}
	if got := fmt.Sprint(names); got != "[team/app0 team/app1 team/app2 team/app3 team/app4]" {
		t.Errorf("the list of repositories is %s", got)
	}
	w.want(404, root, "GET", "usage/repositories/team/none", "", nil)
	w.want(404, root, "GET", "usage/tags/team/none", "", nil)
	w.want(404, root, "GET", "usage/tags/team/app0?tag=none", "", nil)
	w.want(400, root, "GET", "usage/tags/team/app0?tag=/", "", nil)
	w.want(400, root, "GET", "usage/repositories/Team", "", nil)
	w.want(400, root, "GET", "organizations/Team/usage", "", nil)
}

func TestQuota(t *testing.T) {
	w := newWorld(t)
	_, root := w.administrator("root")
	w.repository("team/app")
	for body, status := range map[string]int{
		`{"bytes":-1}`:                   400,
		`{}`:                             400,
		`{"deduplicated":true,"tags":1}`: 400,
		`{"tags":1,"warn":0}`:            400,
		`{"tags":1,"warn":102}`:          400,
		`{"tags":1.5}`:                   400,
		`{"tags":1,"colour":1}`:          400,
		`{"bytes":9223372036854775807}`:  200,
		`{"tags":1}`:                     200,
	} {
		w.want(status, root, "PUT", "organizations/team/quota", body, nil)
	}
	var q Quota
	w.want(200, root, "PUT", "organizations/team/quota", `{"tags":1}`, &q)
	if q.Bytes != nil || q.Tags == nil || *q.Tags != 1 || *q.Warn != 80 || q.Used.Tags != 1 || !q.Near {
		t.Errorf("%+v", q)
	}
	var p Page[Quota]
	w.want(200, root, "GET", "quotas", "", &p)
	if len(p.Items) != 1 || p.Items[0].Organization != "team" {
		t.Errorf("%+v", p)
	}
	w.want(204, root, "DELETE", "organizations/team/quota", "", nil)
	w.want(404, root, "DELETE", "organizations/team/quota", "", nil)
	w.want(400, root, "PUT", "organizations/Team/quota", `{"tags":1}`, nil)
}

// Without access control everybody may ask for what is about content, and nobody for accounts.
func TestOpen(t *testing.T) {
	w := newWorld(t)
	w.h.opts.Auth = nil
	w.repository("team/app")
	w.want(200, who{}, "GET", "usage", "", nil)
	w.want(200, who{}, "PUT", "organizations/team/quota", `{"tags":5}`, nil)
	w.want(204, who{}, "DELETE", "organizations/team/quota", "", nil)
	for _, r := range routes {
		if r.right == rightContent || r.isPolicy() {
			continue
		}
		w.want(404, who{}, r.method, r.path, `{}`, nil)
	}
	if entries, _, err := w.db.Audit(t.Context(), meta.AuditFilter{}, meta.AuditPlace{}, 10); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
