package oidc

import (
	"errors"
	"fmt"
	"strings"
)

// The issuers of the two large CI services.
const (
	GitHubIssuer = "https://token.actions.githubusercontent.com"
	GitLabIssuer = "https://gitlab.com"
)

// GitHub describes jobs of GitHub Actions.
type GitHub struct {
	Issuer   string // "" for GitHubIssuer; https://HOST/_services/token of a GitHub Enterprise Server
	Audience string

	// One of them is needed. OWNER/NAME, or OWNER/** for all repositories of an owner.
	Repository, Owner string

	// Ids, which stay when a name changes hands; "" to trust the name alone.
	RepositoryID, OwnerID string

	Ref         string // refs/heads/main, refs/tags/v*
	Environment string

	// The workflow that the job is in: release.yml for one of Repository, or OWNER/NAME/.github/workflows/FILE of a reusable one; with @REF
	// for that of a branch or tag only.
	Workflow string
}

// Rule returns the rule that trusts those jobs.
func (g GitHub) Rule() (*Rule, error) {
	if g.Repository == "" && g.Owner == "" {
		return nil, errors.New("name the repository (octo-org/app) or the owner (octo-org) whose jobs are trusted")
	}
	if g.Repository != "" && strings.Count(g.Repository, "/") != 1 {
		return nil, fmt.Errorf("repository %s: write OWNER/NAME, or OWNER/** for all of an owner", shown(g.Repository))
	}
	if g.Ref != "" && !strings.HasPrefix(g.Ref, "refs/") {
		return nil, fmt.Errorf("ref %s: GitHub writes refs/heads/%[2]s for a branch and refs/tags/%[2]s for a tag", shown(g.Ref), clip(g.Ref, 100))
	}
	workflow, err := g.workflow()
	if err != nil {
		return nil, err
	}
	return newRule(g.Issuer, GitHubIssuer, g.Audience, map[string]string{
		"repository":          g.Repository,
		"repository_owner":    g.Owner,
		"repository_id":       g.RepositoryID,
		"repository_owner_id": g.OwnerID,
		"ref":                 g.Ref,
		"environment":         g.Environment,
		"job_workflow_ref":    workflow,
	})
}

// workflow returns what the claim job_workflow_ref has to be: OWNER/NAME/.github/workflows/FILE@REF.
func (g GitHub) workflow() (string, error) {
	w := g.Workflow
	if w == "" {
		return "", nil
	}
	file, _, pinned := strings.Cut(w, "@")
	if !strings.Contains(file, "/") {
		if !Pattern(g.Repository).isText() || g.Repository == "" {
			return "", fmt.Errorf("workflow %s: without one repository, write OWNER/NAME/.github/workflows/FILE", shown(w))
		}
		w = g.Repository + "/.github/workflows/" + w
	} else if strings.Count(file, "/") < 4 {
		return "", fmt.Errorf("workflow %s: write FILE, or OWNER/NAME/.github/workflows/FILE", shown(w))
	}
	if !pinned {
		w += "@*/**"
	}
	return w, nil
}

// GitLab describes jobs of GitLab CI.
type GitLab struct {
	Issuer   string // "" for GitLabIssuer; else the URL of a GitLab server
	Audience string

	// One of them is needed. GROUP/PROJECT and GROUP, or GROUP/** for all that is in a group.
	ProjectPath, NamespacePath string

	// Ids, which stay when a path changes hands; "" to trust the path alone.
	ProjectID, NamespaceID string

	Ref       string // the name of a branch or tag: main, v*
	RefType   string // branch or tag; "" for a branch if there is a Ref
	Protected bool   // whether only protected branches and tags are trusted

	Environment string
}

// Rule returns the rule that trusts those jobs.
func (g GitLab) Rule() (*Rule, error) {
	if g.ProjectPath == "" && g.NamespacePath == "" {
		return nil, errors.New("name the project_path (group/app) or the namespace_path (group) whose jobs are trusted")
	}
	if strings.HasPrefix(g.Ref, "refs/") {
		return nil, fmt.Errorf("ref %s: GitLab writes the name alone, such as main, and says branch or tag in ref_type", shown(g.Ref))
	}
	if g.RefType != "" && g.RefType != "branch" && g.RefType != "tag" {
		return nil, fmt.Errorf("ref_type %s: it must be branch or tag", shown(g.RefType))
	}
	if g.Ref != "" && g.RefType == "" {
		g.RefType = "branch"
	}
	protected := ""
	if g.Protected {
		protected = "true"
	}
	return newRule(g.Issuer, GitLabIssuer, g.Audience, map[string]string{
		"project_path":   g.ProjectPath,
		"namespace_path": g.NamespacePath,
		"project_id":     g.ProjectID,
		"namespace_id":   g.NamespaceID,
		"ref":            g.Ref,
		"ref_type":       g.RefType,
		"ref_protected":  protected,
		"environment":    g.Environment,
	})
}

// Kubernetes describes pods by their service account.
type Kubernetes struct {
	Issuer         string // of the cluster: "issuer" in what "kubectl get --raw /.well-known/openid-configuration" prints
	Audience       string
	Namespace      string
	ServiceAccount string
	UID            string // of the service account, which is another one when it is made anew; "" to trust the name alone
}

// Rule returns the rule that trusts those pods.
func (k Kubernetes) Rule() (*Rule, error) {
	if k.Namespace == "" || k.ServiceAccount == "" {
		return nil, errors.New("name the namespace and the service account whose pods are trusted; ** stands for all service accounts of the namespace")
	}
	if !Pattern(k.Namespace).isText() {
		return nil, fmt.Errorf("namespace %s: it must be written out, because whoever may create namespaces chooses their names", shown(k.Namespace))
	}
	if k.Issuer == "" {
		return nil, errors.New(`name the issuer of the cluster: "kubectl get --raw /.well-known/openid-configuration" prints it`)
	}
	return newRule(k.Issuer, "", k.Audience, map[string]string{
		"kubernetes.io.namespace":           k.Namespace,
		"kubernetes.io.serviceaccount.name": k.ServiceAccount,
		"kubernetes.io.serviceaccount.uid":  k.UID,
	})
}

// newRule makes a valid rule of the claims that are not empty.
func newRule(issuer, usual, audience string, claims map[string]string) (*Rule, error) {
	if issuer == "" {
		issuer = usual
	}
	r := &Rule{Issuer: issuer, Audience: audience, Claims: map[string]Pattern{}}
	for name, value := range claims {
		if value != "" {
			r.Claims[name] = Pattern(value)
		}
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, nil
}
