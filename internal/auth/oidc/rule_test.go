package oidc

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The claims of real tokens, in the forms that the documentation of GitHub, GitLab and Kubernetes shows, with values of ours.
const (
	gitHubClaims = `{
		"jti": "0f8c6a4e", "sub": "repo:octo-org/app:ref:refs/heads/main", "aud": "registry.example.com",
		"ref": "refs/heads/main", "sha": "4f1c2d", "repository": "octo-org/app", "repository_owner": "octo-org", "repository_owner_id": "65",
		"run_id": "1001", "run_number": "10", "run_attempt": "1", "repository_visibility": "private", "repository_id": "74", "actor_id": "12",
		"actor": "octocat", "workflow": "release", "head_ref": "", "base_ref": "", "event_name": "push", "ref_protected": "true", "ref_type": "branch",
		"workflow_ref": "octo-org/app/.github/workflows/release.yml@refs/heads/main", "workflow_sha": "4f1c2d",
		"job_workflow_ref": "octo-org/app/.github/workflows/release.yml@refs/heads/main", "job_workflow_sha": "4f1c2d",
		"runner_environment": "github-hosted", "iss": "https://token.actions.githubusercontent.com"}`
	gitLabClaims = `{
		"namespace_id": "72", "namespace_path": "group/team", "project_id": "20", "project_path": "group/team/app", "user_id": "1",
		"user_login": "sam", "user_email": "sam@example.com", "user_access_level": "maintainer", "user_identities": [{"provider": "github", "extern_uid": "2435"}],
		"pipeline_id": "574", "pipeline_source": "push", "job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
		"ref_protected": "true", "groups_direct": ["group", "group/team"], "environment": "production", "environment_protected": "false",
		"deployment_tier": "production", "deployment_action": "start", "runner_id": 1, "runner_environment": "self-hosted", "sha": "714a6",
		"project_visibility": "public", "ci_config_ref_uri": "gitlab.com/group/team/app//.gitlab-ci.yml@refs/heads/main", "ci_config_sha": "714a6",
		"jti": "235b3a54", "iss": "https://gitlab.com", "sub": "project_path:group/team/app:ref_type:branch:ref:main", "aud": "registry.example.com"}`
	kubernetesClaims = `{
		"aud": ["registry.example.com"], "iss": "https://kubernetes.default.svc.cluster.local", "jti": "ea28ed49", "sub": "system:serviceaccount:build:pusher",
		"kubernetes.io": {"namespace": "build", "node": {"name": "node-1", "uid": "97c5"}, "pod": {"name": "job-x", "uid": "5e0b"},
			"serviceaccount": {"name": "pusher", "uid": "14ee"}, "warnafter": 1752676000}}`
)

// token makes a Token as Verify does, of claims that nobody signed.
func token(t testing.TB, claims string) *Token {
	t.Helper()
	var std struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal([]byte(claims), &std); err != nil {
		t.Fatal(err)
	}
	i := must(NewIssuer(Options{Issuer: std.Issuer}))
	all := must(decodeClaims([]byte(claims)))
	all["exp"] = time.Now().Unix() + 3600
	if all["sub"] == nil {
		all["sub"] = "somebody"
	}
	got, err := i.check(must(json.Marshal(all)), []string{audience})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func with(claims string, changes map[string]any) string {
	var all map[string]any
	if err := json.Unmarshal([]byte(claims), &all); err != nil {
		panic(err)
	}
	for k, v := range changes {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	return string(must(json.Marshal(all)))
}

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, value string
		want           bool
	}{
		{"main", "main", true}, {"main", "Main", false}, {"main", "main2", false}, {"main", "", false},
		{"*", "main", true}, {"*", "feature/x", false}, {"*", "a:b", false}, {"**", "feature/x", true}, {"**", "repo:a/b:ref:refs/heads/x", true},
		{"refs/heads/*", "refs/heads/main", true}, {"refs/heads/*", "refs/heads/a/b", false}, {"refs/heads/**", "refs/heads/a/b", true},
		{"refs/heads/**", "refs/tags/a", false}, {"refs/tags/v*", "refs/tags/v1.2", true}, {"refs/tags/v*", "refs/tags/v1/evil", false},
		{"octo-org/*", "octo-org/app", true}, {"octo-org/*", "octo-org-evil/app", false}, {"octo-org/**", "octo-org/app", true}, {"octo-org/app?", "octo-org/app2", true},
		{"octo-org/{app,web}", "octo-org/web", true}, {"octo-org/{app,web}", "octo-org/api", false}, {"[a-c]x", "bx", true}, {"[^a-c]x", "bx", false},
		{`a\*b`, "a*b", true}, {`a\*b`, "axb", false}, {`feature\[1\]`, "feature[1]", true},
		{"repo:octo-org/*:environment:prod", "repo:octo-org/app:environment:prod", true},
		{"repo:octo-org/*:environment:prod", "repo:octo-org/app:ref:refs/heads/x:environment:prod", false},
		{"repo:octo-org/*", "repo:octo-org/app:pull_request", false}, {"repo:octo-org/*:**", "repo:octo-org/app:pull_request", true},
		{"repo:octo-org/app:ref:refs/heads/**", "repo:octo-org/app:ref:refs/heads/a/b", true},
		{"repo:octo-org/app:*", "repo:octo-org/app:ref:refs/heads/main", false}, {"repo:octo-org/app:?:x", "repo:octo-org/app:/:x", false},
		{"repo:{octo-org/app,octo-org/web}:environment:*", "repo:octo-org/web:environment:x", true},
		{"repo:octo-org/*", "repo/octo-org/app", false}, {"a:*", "a/b", false}, {"a/*", "a:b", false}, {"a:b*", "a/:/b", false},
		{"system:serviceaccount:build:*", "system:serviceaccount:build:pusher", true}, {"system:serviceaccount:build:*", "system:serviceaccount:build2:pusher", false},
	} {
		if err := Pattern(test.pattern).Validate(); err != nil {
			t.Errorf("%s: %v", test.pattern, err)
		}
		if got := Pattern(test.pattern).matches(test.value); got != test.want {
			t.Errorf("%s on %s: %t", test.pattern, test.value, got)
		}
	}
	for _, p := range []Pattern{"", "[", "{a", `a\`, `a\:b`, `a\/b`, "[:x]", "[a/b]", "{a,b}{a,b}{a,b}", Pattern(strings.Repeat("a", maxPattern+1))} {
		if p.Validate() == nil {
			t.Errorf("%s is a pattern", p)
		}
	}
}

func TestClaimPaths(t *testing.T) {
	claims := token(t, with(kubernetesClaims, map[string]any{
		"list": []any{"a", 1, true, nil, map[string]any{"x": 1}, []any{"nested"}}, "empty": []any{}, "null": nil, "yes": true, "n": 12345678901234567, "f": json.Number("1.50"),
		"a.b": map[string]any{"c": "dotted"}, "a": map[string]any{"b": map[string]any{"c": "nested"}, "x": "one"}, "https://a.example/groups": []any{"g"},
		"realm_access": map[string]any{"roles": []any{"admin"}}, "": "nameless",
	})).Claims
	for path, want := range map[string]string{
		"kubernetes.io.namespace": "build", "kubernetes.io.serviceaccount.name": "pusher", "kubernetes.io.warnafter": "1752676000", "kubernetes.io.pod.uid": "5e0b",
		"kubernetes.io": "", "kubernetes": "", "kubernetes.io.": "", "kubernetes.io.missing": "", "kubernetes.io.namespace.x": "", "sub.x": "",
		"list": "a 1 true", "empty": "", "null": "", "yes": "true", "n": "12345678901234567", "f": "1.50",
		"a.b.c": "", "a.x": "one", "https://a.example/groups": "g", "realm_access.roles": "admin", "missing": "", ".": "", "..": "",
		strings.Repeat("a.", 50): "", strings.Repeat("a", 500): "",
	} {
		if got := strings.Join(claims.values(path), " "); got != want {
			t.Errorf("%q: got %q, expected %q", path, got, want)
		}
	}
}

func TestPresets(t *testing.T) {
	hub := GitHub{Audience: audience, Repository: "octo-org/app"}
	lab := GitLab{Audience: audience, ProjectPath: "group/team/app"}
	kube := Kubernetes{Issuer: "https://kubernetes.default.svc.cluster.local", Audience: audience, Namespace: "build", ServiceAccount: "pusher"}
	type preset interface{ Rule() (*Rule, error) }
	hubWith := func(f func(*GitHub)) GitHub { g := hub; f(&g); return g }
	labWith := func(f func(*GitLab)) GitLab { g := lab; f(&g); return g }
	kubeWith := func(f func(*Kubernetes)) Kubernetes { k := kube; f(&k); return k }
	for _, test := range []struct {
		preset preset
		claims string
		wrong  string // the claim that does not match; "" if the token is trusted
	}{
		{hub, gitHubClaims, ""},
		{hub, with(gitHubClaims, map[string]any{"repository": "octo-org/app-evil"}), "repository"},
		{hub, with(gitHubClaims, map[string]any{"repository": nil}), "repository"},
		{hub, with(gitHubClaims, map[string]any{"iss": "https://gitlab.com"}), "iss"},
		{hub, with(gitHubClaims, map[string]any{"iss": "https://token.actions.githubusercontent.com/enterprise"}), "iss"},
		{hubWith(func(g *GitHub) { g.Audience = "other" }), gitHubClaims, "aud"},
		{hubWith(func(g *GitHub) { g.RepositoryID, g.OwnerID = "74", "65" }), gitHubClaims, ""},
		{hubWith(func(g *GitHub) { g.RepositoryID = "74" }), with(gitHubClaims, map[string]any{"repository_id": "75"}), "repository_id"},
		{hubWith(func(g *GitHub) { g.Ref = "refs/heads/main" }), gitHubClaims, ""},
		{hubWith(func(g *GitHub) { g.Ref = "refs/tags/v*" }), gitHubClaims, "ref"},
		{hubWith(func(g *GitHub) { g.Environment = "prod" }), gitHubClaims, "environment"},
		{hubWith(func(g *GitHub) { g.Environment = "prod" }), with(gitHubClaims, map[string]any{"environment": "prod"}), ""},
		{hubWith(func(g *GitHub) { g.Workflow = "release.yml" }), gitHubClaims, ""},
		{hubWith(func(g *GitHub) { g.Workflow = "release.yml@refs/heads/main" }), gitHubClaims, ""},
		{hubWith(func(g *GitHub) { g.Workflow = "release.yml@refs/tags/v1" }), gitHubClaims, "job_workflow_ref"},
		{hubWith(func(g *GitHub) { g.Workflow = "octo-org/shared/.github/workflows/push.yml" }), gitHubClaims, "job_workflow_ref"},
		{hubWith(func(g *GitHub) { g.Workflow = "release.yml" }), with(gitHubClaims, map[string]any{"job_workflow_ref": "octo-org/app/.github/workflows/release.yml.evil.yml@refs/heads/x"}), "job_workflow_ref"},
		{GitHub{Audience: audience, Repository: "octo-org/**"}, gitHubClaims, ""},
		{GitHub{Audience: audience, Owner: "octo-org"}, gitHubClaims, ""},
		{GitHub{Audience: audience, Owner: "octo"}, gitHubClaims, "repository_owner"},
		{GitHub{Issuer: "https://github.corp.example/_services/token", Audience: audience, Repository: "octo-org/app"}, with(gitHubClaims, map[string]any{"iss": "https://github.corp.example/_services/token"}), ""},
		{lab, gitLabClaims, ""},
		{labWith(func(g *GitLab) { g.Ref = "main" }), gitLabClaims, ""},
		{labWith(func(g *GitLab) { g.Ref = "main" }), with(gitLabClaims, map[string]any{"ref_type": "tag"}), "ref_type"},
		{labWith(func(g *GitLab) { g.Ref, g.RefType = "v*", "tag" }), with(gitLabClaims, map[string]any{"ref": "v1", "ref_type": "tag"}), ""},
		{labWith(func(g *GitLab) { g.Protected = true }), gitLabClaims, ""},
		{labWith(func(g *GitLab) { g.Protected = true }), with(gitLabClaims, map[string]any{"ref_protected": "false"}), "ref_protected"},
		{labWith(func(g *GitLab) { g.Protected = true }), with(gitLabClaims, map[string]any{"ref_protected": true}), ""},
		{labWith(func(g *GitLab) { g.Environment = "staging" }), gitLabClaims, "environment"},
		{labWith(func(g *GitLab) { g.ProjectID, g.NamespaceID = "20", "72" }), gitLabClaims, ""},
		{labWith(func(g *GitLab) { g.ProjectID = "20" }), with(gitLabClaims, map[string]any{"project_id": 20}), ""},
		{GitLab{Audience: audience, NamespacePath: "group/**"}, gitLabClaims, ""},
		{GitLab{Audience: audience, NamespacePath: "group"}, gitLabClaims, "namespace_path"},
		{GitLab{Issuer: "https://git.corp.example", Audience: audience, NamespacePath: "group/team"}, with(gitLabClaims, map[string]any{"iss": "https://git.corp.example"}), ""},
		{kube, kubernetesClaims, ""},
		{kubeWith(func(k *Kubernetes) { k.ServiceAccount = "**" }), kubernetesClaims, ""},
		{kubeWith(func(k *Kubernetes) { k.Namespace = "default" }), kubernetesClaims, "kubernetes.io.namespace"},
		{kubeWith(func(k *Kubernetes) { k.ServiceAccount = "other" }), kubernetesClaims, "kubernetes.io.serviceaccount.name"},
		{kubeWith(func(k *Kubernetes) { k.UID = "14ee" }), kubernetesClaims, ""},
		{kubeWith(func(k *Kubernetes) { k.UID = "0" }), kubernetesClaims, "kubernetes.io.serviceaccount.uid"},
	} {
		rule, err := test.preset.Rule()
		if err != nil {
			t.Errorf("%+v: %v", test.preset, err)
			continue
		}
		ok, checks := rule.Match(token(t, test.claims))
		var wrong []string
		for _, c := range checks {
			if !c.OK {
				wrong = append(wrong, c.Claim)
			}
			if c.String() == "" || !strings.Contains(c.String(), c.Claim) {
				t.Errorf("said: %s", c)
			}
		}
		if got := strings.Join(wrong, " "); got != test.wrong || ok != (test.wrong == "") {
			t.Errorf("%+v: trusted %t, wrong %q, expected %q: %v", test.preset, ok, got, test.wrong, checks)
		}
		again := new(Rule)
		if err := json.Unmarshal(must(json.Marshal(rule)), again); err != nil {
			t.Fatal(err)
		}
		if ok2, _ := again.Match(token(t, test.claims)); ok2 != ok {
			t.Errorf("%+v: not the same after JSON", test.preset)
		}
	}
	for name, p := range map[string]preset{
		"no repository":               GitHub{Audience: audience, Ref: "refs/heads/main"},
		"any repository":              GitHub{Audience: audience, Repository: "*/*"},
		"a repository of this name":   GitHub{Audience: audience, Repository: "*/app"},
		"owners that begin so":        GitHub{Audience: audience, Repository: "octo*/app"},
		"owners by pattern":           GitHub{Audience: audience, Owner: "octo-*"},
		"a name without an owner":     GitHub{Audience: audience, Repository: "app"},
		"no audience":                 GitHub{Repository: "octo-org/app"},
		"audience by pattern":         GitHub{Audience: "*", Repository: "octo-org/app"},
		"short ref":                   GitHub{Audience: audience, Repository: "octo-org/app", Ref: "main"},
		"file of many repositories":   GitHub{Audience: audience, Repository: "octo-org/**", Workflow: "release.yml"},
		"odd workflow":                GitHub{Audience: audience, Repository: "octo-org/app", Workflow: "workflows/release.yml"},
		"bad pattern":                 GitHub{Audience: audience, Repository: "octo-org/app", Environment: "["},
		"GitLab without a project":    GitLab{Audience: audience, Protected: true},
		"GitLab: any project":         GitLab{Audience: audience, ProjectPath: "**"},
		"GitLab: groups by pattern":   GitLab{Audience: audience, NamespacePath: "gr*/x"},
		"GitLab: any, on own server":  GitLab{Issuer: "https://git.corp.example", Audience: audience, ProjectPath: "**", Protected: true, Ref: "main"},
		"GitLab: long ref":            GitLab{Audience: audience, ProjectPath: "a/b", Ref: "refs/heads/main"},
		"GitLab: odd type":            GitLab{Audience: audience, ProjectPath: "a/b", RefType: "commit"},
		"Kubernetes: no issuer":       Kubernetes{Audience: audience, Namespace: "a", ServiceAccount: "b"},
		"Kubernetes: no account":      Kubernetes{Issuer: kube.Issuer, Audience: audience, Namespace: "a"},
		"Kubernetes: any namespace":   Kubernetes{Issuer: kube.Issuer, Audience: audience, Namespace: "**", ServiceAccount: "b"},
		"Kubernetes: without TLS":     Kubernetes{Issuer: "http://kubernetes.example", Audience: audience, Namespace: "a", ServiceAccount: "b"},
		"Kubernetes: empty audience":  Kubernetes{Issuer: kube.Issuer, Namespace: "a", ServiceAccount: "b"},
		"Kubernetes: URL with secret": Kubernetes{Issuer: "https://a:b@kubernetes.example", Audience: audience, Namespace: "a", ServiceAccount: "b"},
	} {
		if rule, err := p.Rule(); err == nil {
			t.Errorf("%s: %+v", name, rule)
		}
	}
}

func TestRulesThatTrustEverybody(t *testing.T) {
	type claims = map[string]Pattern
	for _, test := range []struct {
		issuer string
		claims claims
		ok     bool
	}{
		{GitHubIssuer, nil, false},
		{GitHubIssuer, claims{"ref": "refs/heads/main"}, false},
		{GitHubIssuer, claims{"environment": "production"}, false},
		{GitHubIssuer, claims{"workflow": "release"}, false},
		{GitHubIssuer, claims{"actor": "octocat"}, false},
		{GitHubIssuer, claims{"job_workflow_ref": "octo-org/shared/.github/workflows/push.yml@refs/heads/main"}, false}, // others may call it
		{GitHubIssuer, claims{"repository": "**"}, false},
		{GitHubIssuer, claims{"repository": "{octo-org,*}/app"}, false},
		{GitHubIssuer, claims{"repository": "octo-org/*"}, true},
		{GitHubIssuer, claims{"repository_owner": "octo-*"}, false},
		{GitHubIssuer, claims{"repository_id": "74"}, true},
		{GitHubIssuer, claims{"sub": "repo:**"}, false},
		{GitHubIssuer, claims{"sub": "repo:*/app:environment:prod"}, false},
		{GitHubIssuer, claims{"sub": "repo:octo*/app:environment:prod"}, false},
		{GitHubIssuer, claims{"sub": "repo:octo-org/*:environment:prod"}, true},
		{GitHubIssuer, claims{"sub": "environment:prod:octo-org/x"}, false},
		{GitHubIssuer + "/corp", claims{"ref": "refs/heads/main"}, false},
		{"https://token.actions.corp.ghe.com", claims{"ref": "refs/heads/main"}, false},
		{"https://github.corp.example/_services/token", claims{"ref": "refs/heads/main"}, false},
		{"https://TOKEN.actions.githubusercontent.com", claims{"ref": "refs/heads/main"}, false},
		{GitLabIssuer, claims{"ref_protected": "true", "user_access_level": "owner"}, false},
		{GitLabIssuer, claims{"sub": "project_path:group/*:ref_type:branch:ref:main"}, true},
		{GitLabIssuer, claims{"sub": "project_path:**"}, false},
		{GitLabIssuer, claims{"groups_direct": "group"}, false},
		{"https://accounts.google.com", claims{"email_verified": "true"}, false},
		{"https://accounts.google.com", claims{"email": "*@corp.example"}, false},
		{"https://accounts.google.com", claims{"email": "ci@corp.iam.gserviceaccount.com"}, true},
		{"https://agent.buildkite.com", claims{"pipeline_slug": "release"}, false},
		{"https://agent.buildkite.com", claims{"organization_slug": "corp"}, true},
		{"https://app.terraform.io", claims{"terraform_run_phase": "apply"}, false},
		{"https://git.corp.example", claims{"ref_protected": "true"}, false},
		{"https://git.corp.example", claims{"project_path": "**"}, false},
		{"https://git.corp.example", claims{"project_path": "a/b"}, true},
		{"https://git.corp.example", nil, false},
		{"https://git.corp.example", claims{"sub": "x", "aud": "x"}, false},
		{"https://git.corp.example", claims{"sub": "x", "exp": "x"}, false},
		{"https://git.corp.example", claims{"sub": "x", "": "x"}, false},
		{"https://git.corp.example", claims{"sub": ""}, false},
	} {
		r := &Rule{Issuer: test.issuer, Audience: audience, Claims: test.claims}
		if err := r.Validate(); (err == nil) != test.ok {
			t.Errorf("%s %v: %v", test.issuer, test.claims, err)
		}
	}
	// Whatever comes from SQL: a rule that is not valid trusts nobody.
	bad := &Rule{Issuer: GitHubIssuer, Audience: audience, Claims: claims{"ref": "refs/heads/main"}}
	if ok, _ := bad.Match(token(t, gitHubClaims)); ok {
		t.Error("a rule that trusts everybody is followed")
	}
}

func TestAdvice(t *testing.T) {
	for _, test := range []struct {
		rule func() (*Rule, error)
		want int
	}{
		{GitHub{Audience: audience, Repository: "octo-org/app"}.Rule, 2},
		{GitHub{Audience: audience, Repository: "octo-org/app", OwnerID: "65"}.Rule, 1},
		{GitHub{Audience: audience, Repository: "octo-org/app", OwnerID: "65", Ref: "refs/heads/main"}.Rule, 0},
		{GitLab{Audience: audience, ProjectPath: "group/app"}.Rule, 2},
		{GitLab{Audience: audience, ProjectPath: "group/app", ProjectID: "20", Ref: "main"}.Rule, 0},
		{Kubernetes{Issuer: "https://kubernetes.example", Audience: audience, Namespace: "a", ServiceAccount: "b"}.Rule, 0},
	} {
		rule := must(test.rule())
		if got := rule.Advice(); len(got) != test.want {
			t.Errorf("%v: %q", rule.Claims, got)
		}
	}
}

func FuzzPattern(f *testing.F) {
	f.Add("repo:octo-org/*:ref:refs/heads/**", "repo:octo-org/app:ref:refs/heads/a/b")
	f.Add("{a,b}[^c]?*", "a:b/c")
	f.Add(`\*`, "*")
	f.Fuzz(func(t *testing.T, pattern, value string) {
		p := Pattern(pattern)
		if p.Validate() != nil {
			return
		}
		if len(value) > maxToken {
			return
		}
		got := p.matches(value)
		switch {
		case p.isText() && got != (pattern == value):
			t.Errorf("the text %q on %q: %t", pattern, value, got)
		case got && !strings.ContainsAny(value, ":/"):
		case got && !strings.Contains(pattern, "**") && (strings.Count(value, ":") > strings.Count(pattern, ":") || strings.Count(value, "/") > strings.Count(pattern, "/")):
			t.Errorf("without **, %q crosses parts of %q", pattern, value)
		}
	})
}

func FuzzRule(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	signed := func(claims string) []byte {
		return []byte(with(claims, map[string]any{"exp": now.Unix()}))
	}
	f.Add([]byte(`{"issuer":"https://gitlab.com","audience":"registry.example.com","claims":{"project_path":"group/**","kubernetes.io.a":"x"}}`), signed(gitLabClaims))
	f.Add([]byte(`{"issuer":"https://kubernetes.default.svc.cluster.local","audience":"registry.example.com","claims":{"kubernetes.io.namespace":"build"}}`), signed(kubernetesClaims))
	f.Fuzz(func(t *testing.T, rule, claims []byte) {
		var r Rule
		if json.Unmarshal(rule, &r) != nil || len(claims) > maxToken {
			return
		}
		i := &Issuer{url: r.Issuer, now: func() time.Time { return now }}
		token, err := i.check(claims, []string{r.Audience})
		if err != nil {
			return
		}
		ok, checks := r.Match(token)
		for _, c := range checks {
			if c.String() == "" || ok && !c.OK {
				t.Errorf("%+v", c)
			}
		}
		if ok && r.Validate() != nil {
			t.Error("a rule that is not valid trusts somebody")
		}
		r.Advice()
	})
}

func FuzzToken(f *testing.F) {
	w := newWorld(f)
	good := w.first.sign(f, w.claims(nil))
	if _, err := w.verify(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(encode(`{"alg":"none"}`) + "." + encode(`{"iss":"x"}`) + ".")
	f.Add(encode(`{"alg":"ES256","b64":false,"crit":["b64"]}`) + "." + encode(`{}`) + "." + encode(strings.Repeat("x", 64)))
	f.Fuzz(func(t *testing.T, raw string) {
		IssuerOf(raw)
		token, err := w.Issuer.Verify(t.Context(), raw, audience)
		// Other texts can stand for the same bytes only in the last character of each part of base64.
		if err == nil && len(raw) != len(good) {
			t.Errorf("%q counts: %+v", raw, token)
		}
	})
}
