// Package admin is the management API under /api/v1/: accounts, credentials, organizations, teams, grants, why
// somebody may do something or not; and what is about content: its history, its trash, and what holds whoever pushes it.
//
// What holds true: each route is a row of one table, with the right that it needs; that right is asked for before anything of the
// request is used but who makes it and what it names; without access control there are no accounts to manage, and everybody may do the rest, as everybody may push; whatever is named is looked for below what it belongs to; a secret is answered
// once and is never stored; there is always an administrator, once there was one; every change, and every one that somebody had no right
// to, is in the audit log; the command line on the data folder goes the same way as requests over HTTP.
package admin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/ratelimit"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// Prefix begins the path of every request that is served here, the page at SetupPath aside.
const Prefix = "/api/v1/"

// Options configure a Handler. Client is not needed where requests do not come over the network.
type Options struct {
	// Auth is nil without access control.
	Auth     *auth.Auth
	DB       *meta.DB
	Registry *registry.Registry
	Log      *slog.Logger
	// TrashKeep is how long what was deleted can be taken back.
	TrashKeep time.Duration
	// Service is what challenges call this registry.
	Service string
	// Client tells the address that a request comes from.
	Client func(*http.Request) netip.Addr
	// Limits, if not nil, says how often a client may ask.
	Limits *ratelimit.Limiter
	// Delete allows to delete content.
	Delete bool
	// ReadOnly refuses changes.
	ReadOnly bool
	// Backups is where servers keep backups; empty if they make none by themselves.
	Backups string
	// FlushPulls, if not nil, writes the pulls that are noted in memory only.
	FlushPulls func(context.Context) error
	// Now is the clock.
	Now func() time.Time
}

// Handler serves the API. Serve is a web.HandlerFunc; it may be used concurrently.
type Handler struct {
	opts   Options
	origin *http.CrossOriginProtection
}

// New returns the API over the accounts of a database.
func New(opts Options) *Handler {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Handler{opts: opts, origin: http.NewCrossOriginProtection()}
}

// right is what a route needs.
type right string

const (
	rightNone         right = "none"         // the request proves itself in another way
	rightSignedIn     right = "signed in"    // to see what is one's own
	rightItself       right = "itself"       // to change what one's account proves itself with
	rightOrganization right = "organization" // to administer the organization that the path names
	rightRepository   right = "repository"   // to administer the organization of the repository that the path names
	rightRegistry     right = "registry"     // to administer the registry
	rightContent      right = "content"      // to do to repositories what the request does, which its handler asks for each of them
	rightPull         right = "pull"         // to pull from the repository that the path names
	rightDelete       right = "delete"       // to delete there
)

// route is a row of the table: who calls method on path needs right and is served by serve. action is the name of a change; without it, nothing is changed.
type route struct {
	method, path string
	right        right
	action       string
	serve        func(*Handler, *call) (any, error)
}

// routes lists every request that is served. The last part of a path may stand for several.
var routes = slices.Concat(
	[]route{
		{"POST", "setup", rightNone, "setup", (*Handler).setup},

		{"GET", "users", rightRegistry, "", (*Handler).listUsers},
		{"POST", "users", rightRegistry, "user.create", (*Handler).createUser},
		{"GET", "users/{user}", rightRegistry, "", (*Handler).showUser},
		{"PATCH", "users/{user}", rightRegistry, "user.change", (*Handler).changeUser},
		{"DELETE", "users/{user}", rightRegistry, "user.delete", (*Handler).deleteUser},
		{"PUT", "users/{user}/password", rightRegistry, "user.password", (*Handler).setPassword},
		{"DELETE", "users/{user}/password", rightRegistry, "user.password", (*Handler).dropPassword},
		{"GET", "users/{user}/tokens", rightRegistry, "", (*Handler).listTokens},
		{"POST", "users/{user}/tokens", rightRegistry, "token.create", (*Handler).createToken},
		{"DELETE", "users/{user}/tokens/{id}", rightRegistry, "token.revoke", (*Handler).revokeToken},

		{"GET", "account", rightSignedIn, "", (*Handler).showUser},
		{"PUT", "account/password", rightItself, "user.password", (*Handler).changePassword},
		{"GET", "account/tokens", rightSignedIn, "", (*Handler).listTokens},
		{"POST", "account/tokens", rightItself, "token.create", (*Handler).createToken},
		{"DELETE", "account/tokens/{id}", rightItself, "token.revoke", (*Handler).revokeToken},

		{"GET", "organizations", rightRegistry, "", (*Handler).listOrganizations},
		{"POST", "organizations", rightRegistry, "organization.create", (*Handler).createOrganization},
		{"GET", "organizations/{organization}", rightOrganization, "", (*Handler).showOrganization},
		{"PATCH", "organizations/{organization}", rightOrganization, "organization.change", (*Handler).changeOrganization},
		{"DELETE", "organizations/{organization}", rightRegistry, "organization.delete", (*Handler).deleteOrganization},

		{"GET", "organizations/{organization}/teams", rightOrganization, "", (*Handler).listTeams},
		{"POST", "organizations/{organization}/teams", rightOrganization, "team.create", (*Handler).createTeam},
		{"DELETE", "organizations/{organization}/teams/{team}", rightOrganization, "team.delete", (*Handler).deleteTeam},
		{"GET", "organizations/{organization}/teams/{team}/members", rightOrganization, "", (*Handler).listMembers},
		{"PUT", "organizations/{organization}/teams/{team}/members/{account}", rightOrganization, "team.member.add", (*Handler).addMember},
		{"DELETE", "organizations/{organization}/teams/{team}/members/{account}", rightOrganization, "team.member.remove", (*Handler).removeMember},
		{"GET", "organizations/{organization}/teams/{team}/groups", rightOrganization, "", (*Handler).listGroups},
		{"PUT", "organizations/{organization}/teams/{team}/groups/{source}", rightOrganization, "team.groups", (*Handler).setGroups},

		{"GET", "repositories/{repository...}", rightRepository, "", (*Handler).showRepository},
		{"PUT", "repositories/{repository...}", rightRepository, "repository.visibility", (*Handler).setRepository},
		{"DELETE", "repositories/{repository...}", rightContent, "repository.delete", (*Handler).deleteRepository},
		{"GET", "contents/{repository...}", rightContent, "", (*Handler).showContents},

		{"GET", "history/moves", rightContent, "", (*Handler).listMoves},
		{"GET", "history/tags", rightContent, "", (*Handler).listTagsAt},
		{"GET", "history/changes", rightContent, "", (*Handler).listChanges},
		{"GET", "history/restore", rightContent, "", (*Handler).planRestore},
		{"POST", "history/restore", rightContent, "history.restore", (*Handler).restore},
		{"GET", "trash", rightContent, "", (*Handler).listTrash},
		{"POST", "trash/empty", rightContent, "trash.empty", (*Handler).emptyTrash},
		{"POST", "trash/undelete", rightContent, "trash.undelete", (*Handler).undelete},

		{"GET", "explain", rightSignedIn, "", (*Handler).explain},

		{"GET", "audit", rightRegistry, "", (*Handler).listAudit},
		{"GET", "audit/export", rightRegistry, "", (*Handler).exportAudit},
	},
	// Of the registry, and of an organization.
	robotRoutes("", rightRegistry),
	robotRoutes("organizations/{organization}/", rightOrganization),
	grantRoutes("", rightRegistry),
	grantRoutes("organizations/{organization}/", rightOrganization),
	policies,
)

// policies are those of routes that are not about accounts. They are there without access control, too.
var policies = slices.Concat(
	[]route{
		{"GET", "freezes", rightRegistry, "", (*Handler).listFreezes},
		{"GET", "tags/{repository...}", rightPull, "", (*Handler).listTags},
		{"GET", "manifests/{repository...}", rightPull, "", (*Handler).listManifests},
		{"GET", "cascade/{repository...}", rightDelete, "", (*Handler).planCascade},
		{"POST", "cascade/{repository...}", rightDelete, "delete", (*Handler).deleteCascade},
	},
	policyRoutes("", rightRegistry),
	policyRoutes("organizations/{organization}/", rightOrganization),
	usageRoutes,
	quotaRoutes,
	jobRoutes,
)

// isPolicy tells whether a row is of policies.
func (row *route) isPolicy() bool {
	return slices.ContainsFunc(policies, func(c route) bool { return c.method == row.method && c.path == row.path })
}

func robotRoutes(parent string, right right) []route {
	return []route{
		{"GET", parent + "robots", right, "", (*Handler).listRobots},
		{"POST", parent + "robots", right, "robot.create", (*Handler).createRobot},
		{"GET", parent + "robots/{robot}", right, "", (*Handler).showRobot},
		{"PATCH", parent + "robots/{robot}", right, "robot.change", (*Handler).changeRobot},
		{"DELETE", parent + "robots/{robot}", right, "robot.delete", (*Handler).deleteRobot},
		{"GET", parent + "robots/{robot}/secrets", right, "", (*Handler).listSecrets},
		{"POST", parent + "robots/{robot}/secrets", right, "secret.create", (*Handler).createSecret},
		{"POST", parent + "robots/{robot}/secrets/rotate", right, "secret.rotate", (*Handler).rotateSecrets},
		{"DELETE", parent + "robots/{robot}/secrets/{id}", right, "secret.revoke", (*Handler).revokeSecret},
		{"GET", parent + "robots/{robot}/trust", right, "", (*Handler).listTrust},
		{"POST", parent + "robots/{robot}/trust", right, "trust.add", (*Handler).addTrust},
		{"DELETE", parent + "robots/{robot}/trust/{id}", right, "trust.remove", (*Handler).removeTrust},
	}
}

func grantRoutes(parent string, right right) []route {
	return []route{
		{"GET", parent + "grants", right, "", (*Handler).listGrants},
		{"POST", parent + "grants", right, "grant.add", (*Handler).addGrant},
		{"DELETE", parent + "grants/{id}", right, "grant.remove", (*Handler).removeGrant},
	}
}

// find returns the row for a request, and sets the request's path values; or the methods that the path has.
func find(r *http.Request, path string) (*route, string) {
	allow := ""
	for i := range routes {
		row := &routes[i]
		values, ok := match(row.path, path)
		if !ok {
			continue
		}
		if row.method == r.Method {
			for j := 0; j < len(values); j += 2 {
				r.SetPathValue(values[j], values[j+1])
			}
			return row, ""
		}
		if allow != "" {
			allow += ", "
		}
		allow += row.method
	}
	return nil, allow
}

// match compares a path with that of a row, and returns the names of its variable parts, each with its value.
func match(pattern, path string) (values []string, ok bool) {
	for {
		want, restWant, moreWant := strings.Cut(pattern, "/")
		name, variable := strings.CutPrefix(strings.TrimSuffix(want, "}"), "{")
		if all, ok := strings.CutSuffix(name, "..."); ok {
			return append(values, all, path), path != ""
		}
		got, rest, more := strings.Cut(path, "/")
		switch {
		case more != moreWant || got == "", !variable && got != want:
			return nil, false
		case variable:
			values = append(values, name, got)
		}
		if !more {
			return values, true
		}
		pattern, path = restWant, rest
	}
}

// caller is who makes a request.
type caller struct {
	identity auth.Identity
	local    bool // the command line on the database itself, which may do everything
}

// Serve answers a request whose path begins with Prefix, or is SetupPath.
func (h *Handler) Serve(w *web.Response, r *http.Request) error {
	if r.URL.Path == SetupPath {
		w.Route = "setup"
		if err := h.opts.Limits.SignIn(w, r, false); err != nil {
			return err
		}
		return h.servePage(w, r)
	}
	return h.serve(w, r, false)
}

func (h *Handler) serve(w *web.Response, r *http.Request, local bool) error {
	w.Route = "api"
	row, allow := find(r, strings.TrimPrefix(r.URL.Path, Prefix))
	switch {
	case row == nil && allow == "":
		return errNotFound("nothing at %s", clip(r.URL.Path))
	case row == nil:
		w.Header().Set("Allow", allow)
		return oci.Errorf(oci.CodeUnsupported, "%s is not supported here; supported: %s", r.Method, allow)
	case row.action != "" && h.opts.ReadOnly:
		return oci.Errorf(oci.CodeUnknown, "the registry is read-only at this moment: try later").WithStatus(http.StatusServiceUnavailable)
	}
	if err := h.origin.Check(r); err != nil {
		return oci.Errorf(oci.CodeDenied, "a page of another site cannot use this API")
	}
	c := &call{Request: r, caller: caller{local: local}, action: row.action}
	err := h.authorize(w, c, row)
	var answer any
	if err == nil {
		answer, err = row.serve(h, c)
	}
	if row.action != "" && err != nil {
		h.noteDenied(c, err)
	}
	if err != nil {
		return known(auth.Answer(w.Header(), err))
	}
	return reply(w, answer)
}

// authorize finds out who makes a request and whether they may.
func (h *Handler) authorize(w *web.Response, c *call, row *route) error {
	switch {
	case c.local && (row.right == rightItself || row.right == rightSignedIn && row.path != "explain"):
		return errInvalid("the command line on the data folder has no account of its own: name the user")
	case c.local:
		return nil
	case h.opts.Auth == nil && (row.right == rightContent || row.isPolicy()):
		c.identity = h.anonymous(c)
		return h.opts.Limits.Request(w, h.opts.Limits.Network(c.Request), "")
	case h.opts.Auth == nil:
		return errNotFound("nothing like this without access control: the server has to be started with auth.enabled")
	case row.right == rightNone:
		return h.opts.Limits.SignIn(w, c.Request, false)
	}
	id, err := h.opts.Auth.Identify(c.Request, h.opts.Client(c.Request))
	if err == nil && id.Scope != nil {
		err = auth.ErrToken
	}
	if err == nil && id.SignedIn() {
		err = h.opts.Auth.Stands(c.Context(), &id)
	}
	subject := h.opts.Limits.Network(c.Request)
	if err == nil {
		subject = h.opts.Limits.Account(id.Account, id.Name, c.Request)
	}
	if limited := h.opts.Limits.Request(w, subject, ""); limited != nil {
		return limited
	}
	switch {
	case errors.Is(err, auth.ErrToken):
		return h.challenge(w, "bearer tokens are for the registry alone: sign in with a password, a personal access token or a robot's secret")
	case errors.Is(err, auth.ErrCredentials):
		return h.challenge(w, auth.Refusal(err))
	case err != nil:
		return auth.Answer(w.Header(), err)
	case !id.SignedIn():
		return h.challenge(w, "sign in first")
	}
	c.identity = id
	if row.action != "" {
		c.credential = h.opts.Auth.CredentialLabel(c.Context(), &id)
	}
	return h.mayCall(w, c, row)
}

func (h *Handler) mayCall(w *web.Response, c *call, row *route) error {
	var d access.Decision
	var err error
	switch ctx := c.Context(); row.right {
	case rightSignedIn, rightContent:
		return nil // to sign in is to stand
	case rightItself:
		d, err = h.opts.Auth.ManagesItself(ctx, &c.identity)
	case rightOrganization:
		d, err = h.administers(c, c.PathValue("organization"))
	case rightRepository:
		r, wrong := oci.ParseRepository(c.PathValue("repository"))
		if wrong != nil {
			return wrong
		}
		d, err = h.administers(c, access.Organization(r))
	case rightPull:
		r, wrong := oci.ParseRepository(c.PathValue("repository"))
		if wrong != nil {
			return wrong
		}
		d, _, err = h.opts.Auth.Decide(ctx, &c.identity, access.Pull, r, "")
	case rightDelete:
		r, wrong := oci.ParseRepository(c.PathValue("repository"))
		if wrong != nil {
			return wrong
		}
		d, c.facts, err = h.opts.Auth.Decide(ctx, &c.identity, access.Delete, r, "")
	case rightRegistry:
		d, err = h.opts.Auth.Administers(ctx, &c.identity, "")
	}
	switch {
	case err != nil:
		return err
	case d.Unknown:
		return h.challenge(w, auth.ErrCredentials.Error())
	case !d.Allowed:
		return oci.Errorf(oci.CodeDenied, "%s may not do this: %s", c.identity.Name, d.Rule())
	}
	return nil
}

// administers is auth.Administers for an organization of a name that may be anything.
func (h *Handler) administers(c *call, organization string) (access.Decision, error) {
	if err := checkOrganization(organization); err != nil {
		return access.Decision{}, err
	}
	return h.opts.Auth.Administers(c.Context(), &c.identity, organization)
}

// challenge asks for a name and a password (RFC 7617).
func (h *Handler) challenge(w *web.Response, why string) error {
	w.Header().Set("WWW-Authenticate", `Basic realm="`+h.opts.Service+`", charset="UTF-8"`)
	return oci.Errorf(oci.CodeUnauthorized, "%s", why)
}
