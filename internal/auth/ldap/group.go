package ldap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	ldap3 "github.com/go-ldap/ldap/v3"
)

// The bounds of groups.
const (
	maxGroups = 10_000
	maxDepth  = 64  // of groups in groups
	pageSize  = 500 // entries that are asked for at a time; Active Directory gives 1,000 at most
	maxPages  = 1_000
	batch     = 50 // groups whose own groups are asked for at a time
)

// groupFilter is the template of the filter that finds groups.
type groupFilter struct {
	direct string // of the account itself
	chain  string // of the account through other groups, for Active Directory; empty if those do not count
}

// inChain is Active Directory's rule that follows groups of groups by itself: LDAP_MATCHING_RULE_IN_CHAIN, [MS-ADTS] section 3.1.1.3.4.4.3.
const inChain = "1.2.840.113556.1.4.1941"

// activeDirectory is what directories say that know the rule: LDAP_CAP_ACTIVE_DIRECTORY_V51_OID, [MS-ADTS] section 3.1.1.3.4.3.
const activeDirectory = "1.2.840.113556.1.4.1670"

func parseGroupFilter(template string, nested bool) (groupFilter, error) {
	f := groupFilter{direct: template}
	if err := checkFilter(template, "name", "dn"); err != nil {
		return f, err
	}
	byDN, byName := strings.Contains(template, "{{dn}}"), strings.Contains(template, "{{name}}")
	if !byDN && !byName {
		return f, errors.New("it must contain {{dn}} or {{name}}")
	}
	if !nested {
		return f, nil
	}
	if !byDN || byName {
		// With the name, a group would be in what an account of the same name is in.
		return f, errors.New("nested groups are found by DN: it must contain {{dn}}, and {{name}} must not be in it")
	}
	f.chain = strings.ReplaceAll(template, "={{dn}}", ":"+inChain+":={{dn}}")
	if strings.Contains(template, ":={{dn}}") {
		f.chain = template // it names a rule of its own
	}
	if err := checkFilter(f.chain, "dn"); err != nil {
		return f, err
	}
	return f, nil
}

// groupsOf returns the groups of an account as Person has them. The error is ErrUnavailable: rather none than some of them.
func (c *conn) groupsOf(ctx context.Context, deadline time.Time, name, dn string) ([]string, error) {
	found := groups{attribute: c.d.opts.GroupAttribute, seen: map[string]bool{}}
	if err := c.collectGroups(ctx, deadline, &found, name, dn); err != nil {
		return nil, unavailable("search for groups", err)
	}
	slices.Sort(found.names)
	return slices.Compact(found.names), nil
}

func (c *conn) collectGroups(ctx context.Context, deadline time.Time, found *groups, name, dn string) error {
	f := c.d.groups
	walk := f.chain != ""
	template := f.direct
	if walk {
		chained, err := c.knowsChain(ctx, deadline)
		if err != nil {
			return err
		}
		if chained {
			walk, template = false, f.chain
		}
	}
	// Each group is asked about once, so that cycles come to an end.
	next, err := c.searchGroups(ctx, deadline, found, fillFilter(template, name, dn))
	if err != nil || !walk {
		return err
	}
	for depth := 1; len(next) > 0; depth++ {
		if depth > maxDepth {
			return fmt.Errorf("groups are nested more than %d deep", maxDepth)
		}
		var above []string
		for some := range slices.Chunk(next, batch) {
			var any strings.Builder
			for _, group := range some {
				any.WriteString(fillFilter(f.direct, "", group))
			}
			more, err := c.searchGroups(ctx, deadline, found, "(|"+any.String()+")")
			if err != nil {
				return err
			}
			above = append(above, more...)
		}
		next = above
	}
	return nil
}

// knowsChain tells whether the directory follows groups of groups by itself.
func (c *conn) knowsChain(ctx context.Context, deadline time.Time) (bool, error) {
	root, err := c.read(ctx, deadline, "", []string{"supportedCapabilities"}) // RFC 4512 section 5.1
	if err != nil || root == nil {
		return false, err
	}
	return slices.Contains(root.GetEqualFoldAttributeValues("supportedCapabilities"), activeDirectory), nil
}

// searchGroups adds the groups that a filter finds and returns the DNs of those that are new.
func (c *conn) searchGroups(ctx context.Context, deadline time.Time, found *groups, filter string) (fresh []string, err error) {
	attributes := []string{found.attribute}
	if found.attribute == byDN {
		attributes = []string{"1.1"} // RFC 4511 section 4.5.1.8: none
	}
	paging := ldap3.NewControlPaging(pageSize) // RFC 2696
	for range maxPages {
		result, err := c.searchPage(ctx, deadline, &ldap3.SearchRequest{
			BaseDN: c.d.opts.GroupBase, Scope: ldap3.ScopeWholeSubtree, Filter: filter, Attributes: attributes, Controls: []ldap3.Control{paging},
		})
		if err != nil {
			switch {
			case ldap3.IsErrorWithCode(err, ldap3.LDAPResultNoSuchObject):
				err = errors.New("the group base is not there, or the account that searches may not see it")
			case ldap3.IsErrorWithCode(err, ldap3.LDAPResultSizeLimitExceeded):
				err = errors.New("the directory refuses to list so many: raise its limit for the account that searches")
			}
			return nil, err
		}
		for _, entry := range result.Entries {
			isNew, err := found.add(entry)
			if err != nil {
				return nil, err
			}
			if isNew {
				fresh = append(fresh, entry.DN)
			}
		}
		answer, ok := ldap3.FindControl(result.Controls, ldap3.ControlTypePaging).(*ldap3.ControlPaging)
		if !ok || len(answer.Cookie) == 0 {
			return fresh, nil
		}
		paging.SetCookie(answer.Cookie)
	}
	return nil, fmt.Errorf("the directory does not come to an end after %d pages", maxPages)
}

// byDN is the GroupAttribute that stands for the whole DN.
const byDN = "dn"

// groups are the groups that were found so far.
type groups struct {
	attribute string
	seen      map[string]bool // by DN, in its normal form
	names     []string
}

// add adds a group and tells whether it is new. One without a name that fits into a line cannot be named in any rule, so it has none here, but
// the groups that it is in count.
func (g *groups) add(entry *ldap3.Entry) (bool, error) {
	if err := checkDN(entry.DN); err != nil {
		return false, err
	}
	dn, err := NormalDN(entry.DN)
	if err != nil {
		return false, err
	}
	if g.seen[dn] {
		return false, nil
	}
	if len(g.seen) == maxGroups {
		return false, fmt.Errorf("there are more than %d", maxGroups)
	}
	g.seen[dn] = true
	if g.attribute == byDN {
		g.names = append(g.names, dn)
		return true, nil
	}
	for _, name := range entry.GetEqualFoldAttributeValues(g.attribute) {
		if name = line(name); name != "" {
			g.names = append(g.names, strings.ToLower(name))
		}
	}
	return true, nil
}

// NormalDN returns a DN in lower case and without what may be left out, as Person.Groups has it, so that DNs that people write can be compared with it.
func NormalDN(dn string) (string, error) {
	parsed, err := ldap3.ParseDN(dn)
	if err != nil {
		return "", fmt.Errorf("%.200q is not a DN: %w", dn, err)
	}
	return strings.ToLower(parsed.String()), nil
}
