package admin

import (
	"strings"

	"github.com/berthregistry/berth/internal/oci"
)

// Anonymous stands for who has not signed in. No account has this name.
const Anonymous = "anonymous"

const maxName = 64

// checkUser tells what is wrong with the name of a new user, if anything.
func checkUser(name string) error {
	if name == Anonymous || name == "token" { // the latter stands for any account beside a token
		return errInvalid("the name %q has a meaning of its own: choose another one", name)
	}
	return checkName("the name of a user", name)
}

// checkName tells what is wrong with a name, if anything.
func checkName(what, name string) error {
	if len(name) <= maxName && isName(name) {
		return nil
	}
	return errInvalid("%s has 1 to %d lower-case letters and digits, with a single '.', '_' or '-' between them; %q has not", what, maxName, clip(name))
}

// isName matches [a-z0-9]+([._-][a-z0-9]+)*.
func isName(s string) bool {
	separated := true
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			separated = false
		case !separated && (c == '.' || c == '_' || c == '-'):
			separated = true
		default:
			return false
		}
	}
	return !separated
}

// checkOrganization tells what is wrong with the name of an organization, if anything: it is the first part of a repository's.
func checkOrganization(name string) error {
	if _, err := oci.ParseRepository(name); err != nil || strings.Contains(name, "/") || len(name) > maxName {
		return errInvalid("the name of an organization is the first part of a repository's: up to %d lower-case letters and digits, "+
			"separated by one '.', one or two '_', or any number of '-'; %q is none", maxName, clip(name))
	}
	return nil
}

// robotName returns the name of a robot of an organization, or of the registry if that is empty.
func robotName(organization, name string) string {
	if organization == "" {
		return name
	}
	return organization + "+" + name
}
