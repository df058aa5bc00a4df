package oidc

import "strings"

const (
	maxName    = 64  // bytes of a user name
	maxDisplay = 128 // bytes of a display name or mail address
	maxGroup   = 255 // bytes of a group's name
)

// Person is who signed in. Issuer and Subject together stay the same for ever and name nobody else; all else may change.
type Person struct {
	Issuer      string
	Subject     string
	Name        string   // a user name; see UserName
	DisplayName string   // may be empty
	Mail        string   // "" unless the issuer says that it is verified
	Groups      []string // nil if the issuer is not to be asked; empty if it says nothing about groups
}

// UserName makes a user name: lower-case letters and digits, in between single '.', '_' or '-', at most 64 characters. ASCII letters are
// made lower-case; anything else that does not fit is an error, so that no two people get one name.
func UserName(s string) (string, error) {
	if len(s) > maxName {
		return "", refused("%s cannot be a user name: it has more than %d characters", shown(s), maxName)
	}
	b := []byte(s)
	inside := false // the character before is a letter or digit
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
			b[i] = c
		}
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			inside = true
		case inside && (c == '.' || c == '_' || c == '-'):
			inside = false
		default:
			return "", refused("%s cannot be a user name, which is letters and digits, in between single '.', '_' or '-'", shown(s))
		}
	}
	if !inside {
		return "", refused("%s cannot be a user name, which begins and ends with a letter or digit", shown(s))
	}
	return string(b), nil
}

// person reads the claims about somebody that a token and, if it was asked for, the userinfo endpoint make.
func (l *Login) person(t *Token, claims Claims) (*Person, error) {
	name, err := l.name(claims)
	if err != nil {
		return nil, err
	}
	p := &Person{Issuer: t.Issuer, Subject: t.Subject, Name: name, DisplayName: clip(claims.one("name"), maxDisplay)}
	if mail := claims.one("email"); len(mail) <= maxDisplay && mail == clip(mail, maxDisplay) && claims.one("email_verified") == "true" {
		p.Mail = mail
	}
	if l.opt.GroupsClaim == "" {
		return p, nil
	}
	_, found := claims.lookup(l.opt.GroupsClaim)
	if found == 0 && overage(claims, l.opt.GroupsClaim) {
		return nil, refused("%s is in too many groups for a token of Microsoft Entra: in the token configuration of the application, choose "+
			"\"Groups assigned to the application\", or use application roles and set groups_claim to roles", shown(name))
	}
	// Many issuers leave the claim out for who is in no group, so that without it nobody may keep a group.
	p.Groups = []string{}
	for _, g := range claims.values(l.opt.GroupsClaim) {
		// What cannot be the name of a group in a rule of ours gives nobody a right.
		if g != "" && g == clip(g, maxGroup) {
			p.Groups = append(p.Groups, g)
		}
	}
	return p, nil
}

// overage tells whether Entra left the groups out because they are too many: it says where to ask for them instead.
func overage(claims Claims, groups string) bool {
	names, _ := claims["_claim_names"].(map[string]any)
	_, elsewhere := names[groups]
	return elsewhere || claims.one("hasgroups") == "true"
}

func (l *Login) name(claims Claims) (string, error) {
	claim := l.opt.NameClaim
	value := claims.one(claim)
	if value == "" {
		return "", refused("the issuer does not say the claim %s, which user names are made of: have it added to ID tokens, or set name_claim to another one",
			shown(claim))
	}
	if claim == "email" && claims.one("email_verified") != "true" {
		return "", refused("the issuer does not say that %s is verified, so that it cannot be a user name", shown(value))
	}
	if local, domain, ok := strings.Cut(value, "@"); ok && l.opt.NameDomain != "" && strings.EqualFold(domain, l.opt.NameDomain) {
		value = local
	} else if ok {
		return "", refused("%s cannot be a user name: set name_claim to a claim without @, or name_domain to the one domain whose addresses stand for users",
			shown(value))
	}
	name, err := UserName(value)
	if err != nil {
		return "", err
	}
	return name, nil
}
