package upstream

import "strings"

// challenge is one challenge of a WWW-Authenticate header (RFC 9110 section 11.6.1).
type challenge struct {
	scheme string            // in lower case
	params map[string]string // names in lower case
}

// pickChallenge returns the challenge to answer, preferring Bearer to Basic, or nil if there is
// none of these.
func pickChallenge(headers []string) *challenge {
	var basic *challenge
	for _, h := range headers {
		for _, c := range parseChallenges(h) {
			switch c.scheme {
			case "bearer":
				return &c
			case "basic":
				basic = &c
			}
		}
	}
	return basic
}

// parseChallenges reads a header's list of challenges. What is not understood ends it.
func parseChallenges(s string) []challenge {
	var out []challenge
	for {
		s = strings.TrimLeft(s, " \t,")
		word, rest := cutToken(s)
		if word == "" {
			return out
		}
		after := strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(after, "=") {
			out = append(out, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			s = rest
			continue
		}
		if len(out) == 0 {
			return out
		}
		value, rest, ok := cutValue(strings.TrimLeft(after[1:], " \t"))
		if !ok {
			return out
		}
		out[len(out)-1].params[strings.ToLower(word)] = value
		s = rest
	}
}

// cutToken splits a token (RFC 9110 section 5.6.2) off s.
func cutToken(s string) (token, rest string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= 'a' && s[i] <= 'z' ||
		strings.IndexByte("!#$%&'*+-.^_`|~", s[i]) >= 0) {
		i++
	}
	return s[:i], s[i:]
}

// cutValue splits a token or a quoted string off s. Unquoted, a few characters are let pass
// that servers send although only a quoted string may hold them.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, " \t,")
		if i < 0 {
			i = len(s)
		}
		return s[:i], s[i:], i > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}
