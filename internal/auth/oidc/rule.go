package oidc

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

const (
	maxPattern  = 512 // bytes
	maxBraces   = 2   // groups {a,b}, since alternatives multiply
	maxClaims   = 32  // of a rule
	maxAudience = 512
)

// Rule says whose tokens are trusted: those of an issuer, for an audience, whose claims all match. It is kept as JSON:
//
//	{"issuer": "https://token.actions.githubusercontent.com", "audience": "registry.example.com",
//	 "claims": {"repository": "octo-org/app", "ref": "refs/heads/main"}}
type Rule struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`

	// By the name of the claim, or its path: kubernetes.io.serviceaccount.name. Of a list, one element has to match.
	Claims map[string]Pattern `json:"claims"`
}

// Pattern is what a claim has to be: a text, compared exactly; or one with * for anything within a part, ** in place of any number of
// whole parts, ? for one character, {a,b} for either, [a-z] for one of a class. Parts are what is between slashes and colons, so
// that in GitHub's sub "repo:octo-org/*:environment:prod" no repository or environment can be named to look like more than it is.
// A backslash takes the meaning from the character after it.
type Pattern string

// meta are the characters that make a pattern more than a text.
const meta = `*?[]{}\`

// Validate tells what is wrong with a pattern, if anything.
func (p Pattern) Validate() error {
	s := string(p)
	switch {
	case s == "":
		return errors.New("the pattern is empty; ** matches everything")
	case len(s) > maxPattern:
		return fmt.Errorf("the pattern has %d bytes, at most %d are allowed", len(s), maxPattern)
	case strings.Count(s, "{") > maxBraces:
		return fmt.Errorf("%s has more than %d groups in braces: write several rules", shown(s), maxBraces)
	case !doublestar.ValidatePattern(s):
		return fmt.Errorf("%s is not a pattern: a bracket or brace is not closed, or a backslash stands at the end", shown(s))
	}
	class := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			if i++; s[i] == ':' || s[i] == '/' { // there is one: the pattern is valid
				return fmt.Errorf(`%s: ':' and '/' have no other meaning, so no backslash belongs before them`, shown(s))
			}
		case s[i] == '[' && !class:
			class = true
		case s[i] == ']':
			class = false
		case class && (s[i] == ':' || s[i] == '/'):
			return fmt.Errorf("%s: ':' and '/' separate parts and cannot be in brackets", shown(s))
		}
	}
	return nil
}

// isText tells whether only one text matches.
func (p Pattern) isText() bool { return !strings.ContainsAny(string(p), meta) }

// matches tells whether a valid pattern matches a value.
func (p Pattern) matches(value string) bool {
	if p.isText() {
		return string(p) == value
	}
	// A colon becomes a part of its own: it separates as a slash does, but is none.
	parts := strings.NewReplacer(":", "/:/")
	return doublestar.MatchUnvalidated(parts.Replace(string(p)), parts.Replace(value))
}

// says tells whether a pattern excludes anything.
func (p Pattern) says() bool { return strings.Trim(string(p), "*?/:{},") != "" }

// Check is how one claim compares with a rule.
type Check struct {
	Claim string   `json:"claim"`
	Want  string   `json:"want"`          // a text or pattern
	Got   []string `json:"got,omitempty"` // values in the token; none if it has no such claim, or it is an object
	OK    bool     `json:"ok"`
}

// String says it in words. It repeats what is in the token, so it is for its owner or an operator.
func (c Check) String() string {
	switch {
	case c.OK:
		return fmt.Sprintf("%s is %s, which matches %s", c.Claim, list(c.Got), shown(c.Want))
	case len(c.Got) == 0:
		return fmt.Sprintf("the token has no claim %s, which must match %s", c.Claim, shown(c.Want))
	}
	return fmt.Sprintf("%s is %s, but must match %s", c.Claim, list(c.Got), shown(c.Want))
}

// Match tells whether a token is trusted by the rule, and how each claim compares: iss and aud first, then those of the rule by name.
// A rule that is not valid trusts nobody.
func (r *Rule) Match(t *Token) (ok bool, checks []Check) {
	checks = []Check{
		{Claim: "iss", Want: r.Issuer, Got: []string{t.Issuer}, OK: t.Issuer == r.Issuer},
		{Claim: "aud", Want: r.Audience, Got: t.Audience, OK: slices.Contains(t.Audience, r.Audience)},
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		want, got := r.Claims[name], t.Claims.values(name)
		checks = append(checks, Check{
			Claim: name, Want: string(want), Got: got,
			OK: want.Validate() == nil && slices.ContainsFunc(got, want.matches),
		})
	}
	ok = r.Validate() == nil && !slices.ContainsFunc(checks, func(c Check) bool { return !c.OK })
	return ok, checks
}

// Validate tells what is wrong with a rule, if anything; above all, whether it trusts everybody who can get a token of the issuer.
func (r *Rule) Validate() error {
	u, err := parseIssuer(r.Issuer)
	switch {
	case err != nil:
		return err
	case r.Audience == "":
		return errors.New("the rule has no audience: name what tokens must be made for, such as the host of this registry, so that those that were made " +
			"for another service are worth nothing here")
	case len(r.Audience) > maxAudience:
		return fmt.Errorf("the audience has %d bytes, at most %d are allowed", len(r.Audience), maxAudience)
	case strings.ContainsAny(r.Audience, "*?"):
		return fmt.Errorf("the audience %s is compared exactly and cannot be a pattern", shown(r.Audience))
	case len(r.Claims) > maxClaims:
		return fmt.Errorf("the rule has %d claims, at most %d are allowed", len(r.Claims), maxClaims)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		switch name {
		case "iss", "aud":
			return fmt.Errorf("claim %s: issuer and audience of a rule stand in fields of their own", name)
		case "exp", "nbf", "iat", "jti", "nonce":
			return fmt.Errorf("claim %s: it differs from token to token and says nothing about who has it", name)
		case "":
			return errors.New("a claim of the rule has no name")
		}
		if len(name) > maxClaim || strings.Count(name, ".") > maxDots {
			return fmt.Errorf("claim %s: its name has more than %d bytes or %d dots", shown(name), maxClaim, maxDots)
		}
		if err := r.Claims[name].Validate(); err != nil {
			return fmt.Errorf("claim %s: %w", clip(name, maxClaim), err)
		}
	}
	return r.pinned(u)
}

// pinned tells whether the rule says who is trusted.
func (r *Rule) pinned(issuer *url.URL) error {
	if s := shareOf(issuer); s != nil {
		for name, p := range r.Claims {
			if slices.Contains(s.ids, name) && p.isText() {
				return nil
			}
			if before, ok := s.paths[name]; ok {
				rest, ok := strings.CutPrefix(string(p), before)
				owner, _, more := strings.Cut(rest, "/")
				if ok && more && owner != "" && Pattern(owner).isText() {
					return nil
				}
			}
		}
		return fmt.Errorf("the rule trusts everybody at %s, because anyone can get a token there: %s", r.Issuer, s.advice)
	}
	for name, p := range r.Claims {
		if p.says() && !slices.Contains(circumstances(), name) {
			return nil
		}
	}
	return fmt.Errorf("the rule trusts everybody who gets a token of %s: add a claim that says who is meant, such as sub", r.Issuer)
}

// circumstances lists claims that say how a job came to run, but not whose it is.
func circumstances() []string {
	return []string{
		"ref", "ref_type", "ref_path", "ref_protected", "base_ref", "head_ref", "sha", "event_name", "environment", "environment_protected",
		"environment_action", "deployment_tier", "workflow", "pipeline_source", "runner_environment", "run_attempt", "repository_visibility", "project_visibility",
		"user_access_level", "email_verified", "typ", "azp",
	}
}

// share is an issuer that gives tokens to people who have nothing to do with each other.
type share struct {
	ids    []string          // claims that say whose a token is, if they are compared with a text
	paths  map[string]string // claims that say it by OWNER/… after this beginning, if OWNER is a text
	advice string
}

// shareOf returns what is known of an issuer that many share, or nil.
func shareOf(issuer *url.URL) *share {
	host := strings.ToLower(issuer.Hostname())
	switch {
	case isGitHub(issuer):
		return &share{
			ids:    []string{"repository", "repository_id", "repository_owner", "repository_owner_id", "enterprise_id"},
			paths:  map[string]string{"repository": "", "sub": "repo:"},
			advice: "name the repository (repository: octo-org/app, or octo-org/** for all of an owner) or the repository_owner; of a pattern, the owner must be written out",
		}
	case host == "gitlab.com":
		return &share{
			ids:    []string{"project_path", "project_id", "namespace_path", "namespace_id"},
			paths:  map[string]string{"project_path": "", "namespace_path": "", "sub": "project_path:"},
			advice: "name the project_path (group/app, or group/** for all of a group) or the namespace_path; of a pattern, the group must be written out",
		}
	case host == "accounts.google.com":
		return &share{ids: []string{"sub", "email", "hd"}, advice: "name the sub, email or hd"}
	case host == "agent.buildkite.com":
		return &share{ids: []string{"organization_id", "organization_slug"}, advice: "name the organization_slug or organization_id"}
	case host == "app.terraform.io":
		return &share{
			ids:    []string{"terraform_organization_id", "terraform_organization_name", "terraform_workspace_id"},
			advice: "name the terraform_organization_name or an id",
		}
	}
	return nil
}

// isGitHub tells whether tokens of GitHub Actions come from an issuer: github.com and its enterprises, one with its own
// subdomain of ghe.com, or a GitHub Enterprise Server.
func isGitHub(issuer *url.URL) bool {
	host := strings.ToLower(issuer.Hostname())
	return host == "token.actions.githubusercontent.com" ||
		strings.HasPrefix(host, "token.actions.") && strings.HasSuffix(host, ".ghe.com") ||
		strings.TrimSuffix(issuer.Path, "/") == "/_services/token"
}

// Advice returns what could be stricter in a valid rule, in sentences.
func (r *Rule) Advice() []string {
	u, err := parseIssuer(r.Issuer)
	if err != nil {
		return nil
	}
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return r.Claims[n].says() })
	}
	var advice []string
	switch {
	case isGitHub(u):
		if !has("repository_id", "repository_owner_id") {
			advice = append(advice, "Names can be taken by others after a rename or deletion: add repository_owner_id or repository_id.")
		}
		if !has("ref", "environment", "sub", "job_workflow_ref", "workflow_ref") {
			advice = append(advice, "Every branch, tag and pull request of the repository is trusted that gets a token: add ref or environment.")
		}
	case has("project_path", "namespace_path", "project_id", "namespace_id"): // GitLab, anywhere
		if !has("project_id", "namespace_id") {
			advice = append(advice, "Paths can be taken by others after a rename or deletion: add project_id or namespace_id.")
		}
		if !has("ref", "ref_protected", "environment", "sub") {
			advice = append(advice, "Every branch and tag of the project is trusted: add ref, ref_protected or environment.")
		}
		if has("ref") && !has("ref_type") {
			advice = append(advice, "A tag can have the name of a branch: add ref_type.")
		}
	}
	return advice
}
