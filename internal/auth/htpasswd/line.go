package htpasswd

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// maxCost is the largest that htpasswd makes; one check takes seconds then.
const maxCost = 17

var (
	userName   = regexp.MustCompile(`^[a-z0-9]+([._-][a-z0-9]+)*$`)
	bcryptHash = regexp.MustCompile(`^\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}$`)
	cryptHash  = regexp.MustCompile(`^[./A-Za-z0-9]{13}$`)
)

// parseLine reads a line. No error shows what stands for a password.
func parseLine(line string) (name string, h hash, err error) {
	name, text, found := strings.Cut(line, ":")
	if !found {
		return "", hash{}, errors.New("there is no colon: a line is NAME:HASH, as htpasswd -B makes it")
	}
	if len(name) > 64 || !userName.MatchString(name) {
		return "", hash{}, fmt.Errorf("%.80q is not the name of a user: it must be letters a to z and digits, with single dots, underscores and dashes between them, 64 at most", name)
	}
	parts := bcryptHash.FindStringSubmatch(text)
	if parts == nil {
		return "", hash{}, fmt.Errorf("what stands for the password of %s is %s, but must be bcrypt: set it anew with htpasswd -B FILE %s", name, kind(text), name)
	}
	cost, err := strconv.Atoi(parts[1])
	if err != nil || cost < 4 || cost > maxCost {
		return "", hash{}, fmt.Errorf("the cost of the hash of %s is %s, not 4 to %d: set it anew with htpasswd -B -C 12 FILE %s", name, parts[1], maxCost, name)
	}
	return name, hash{[]byte(text), cost}, nil
}

// kind names what htpasswd and others make beside bcrypt.
func kind(text string) string {
	for _, k := range []struct{ prefix, name string }{
		{"$apr1$", "MD5"}, {"$1$", "MD5"}, {"{SHA}", "SHA-1"}, {"{SSHA}", "SHA-1"}, {"$5$", "SHA-256"}, {"$6$", "SHA-512"},
		{"$2x$", "bcrypt of a version with an error"}, {"$2", "damaged bcrypt"}, {"$argon2", "Argon2"}, {"$y$", "yescrypt"}, {"!", "a locked account"},
	} {
		if strings.HasPrefix(text, k.prefix) {
			return k.name
		}
	}
	switch {
	case text == "":
		return "empty"
	case cryptHash.MatchString(text):
		return "crypt, or plain text"
	}
	return "of an unknown kind, or plain text"
}
