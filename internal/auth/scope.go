package auth

import (
	"slices"
	"strings"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

// ResourceActions are actions on a resource, as scopes and tokens name them (auth-jwt.md).
type ResourceActions struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// The types of resources.
const (
	repositoryResource = "repository"
	registryResource   = "registry"
	catalogName        = "catalog"
)

// maxScopes is how many resources one token is for at most.
const maxScopes = 100

// Scope is what a token was issued for.
type Scope struct{ access []ResourceActions }

// tokenAction names what in the words of tokens an action is: they know no difference between new tags and others.
func tokenAction(a access.Actions) string {
	switch a {
	case access.Pull:
		return "pull"
	case access.Push, access.Overwrite:
		return "push"
	case access.Delete:
		return "delete"
	}
	return "admin"
}

// allows tells whether a scope is for an action on a repository. No scope is for all.
func (s *Scope) allows(r oci.Repository, action access.Actions) bool {
	if s == nil {
		return true
	}
	return s.has(repositoryResource, string(r), tokenAction(action))
}

// AllowsCatalog tells whether a scope is for listing repositories.
func (s *Scope) AllowsCatalog() bool { return s == nil || s.has(registryResource, catalogName, "*") }

func (s *Scope) has(kind, name, action string) bool {
	for i := range s.access {
		a := &s.access[i]
		if a.Type == kind && a.Name == name && slices.Contains(a.Actions, action) {
			return true
		}
	}
	return false
}

// ParseScopes reads scopes, of which each text may have several with spaces between (auth-scope.md). What cannot be
// a resource here is left out: a token for less is what a client gets who asks for too much.
func ParseScopes(texts []string) []ResourceActions {
	var all []ResourceActions
	for _, text := range texts {
		for _, one := range strings.Fields(text) {
			kind, rest, ok := strings.Cut(one, ":")
			i := strings.LastIndexByte(rest, ':')
			if !ok || i < 0 {
				continue
			}
			name, actions := rest[:i], strings.Split(rest[i+1:], ",")
			kind, _, _ = strings.Cut(kind, "(") // repository(plugin), which nobody tells apart
			switch {
			case kind == repositoryResource:
				if _, err := oci.ParseRepository(name); err != nil {
					continue
				}
			case kind != registryResource || name != catalogName:
				continue
			}
			if j := slices.IndexFunc(all, func(a ResourceActions) bool { return a.Type == kind && a.Name == name }); j >= 0 {
				all[j].Actions = union(all[j].Actions, actions)
			} else if len(all) < maxScopes {
				all = append(all, ResourceActions{kind, name, union(nil, actions)})
			}
		}
	}
	return all
}

// union adds those of the actions that there are.
func union(to, actions []string) []string {
	for _, a := range actions {
		if (a == "pull" || a == "push" || a == "delete" || a == "*") && !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return to
}

// ScopeText is the scope of a challenge for an action on a repository. Who pushes also looks what is there.
func ScopeText(r oci.Repository, action access.Actions) string {
	s := repositoryResource + ":" + string(r) + ":" + tokenAction(action)
	if action == access.Push {
		s = repositoryResource + ":" + string(r) + ":pull,push"
	}
	return s
}

// CatalogScope is the scope of a challenge for the list of repositories.
const CatalogScope = registryResource + ":" + catalogName + ":*"
