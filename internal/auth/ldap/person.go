package ldap

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	ldap3 "github.com/go-ldap/ldap/v3"
	"github.com/google/uuid"
)

// UserName returns a name of the directory as the name of a user: letters of ASCII in lower case, digits, and between two of
// them a dot, an underscore or a dash; at most 64 characters. Other letters are not made to fit, because two accounts
// could become one. The error is ErrName and says what does not fit.
func UserName(name string) (string, error) {
	if name == "" || len(name) > 64 {
		return "", fmt.Errorf("%w: it has %d characters, not 1 to 64", ErrName, utf8.RuneCountInString(name))
	}
	lower := []byte(name)
	inside := false // after a letter or digit
	for i, c := range lower {
		switch {
		case 'A' <= c && c <= 'Z':
			lower[i] = c + 'a' - 'A'
			inside = true
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			inside = true
		case (c == '.' || c == '_' || c == '-') && inside && i < len(lower)-1:
			inside = false
		default:
			return "", fmt.Errorf("%w: %q must consist of letters a to z and digits, with single dots, underscores and dashes between them", ErrName, name)
		}
	}
	return string(lower), nil
}

// attributes returns which attributes of an account's entry are asked for.
func (o *Options) attributes() []string {
	return []string{o.NameAttribute, o.MailAttribute, o.DisplayNameAttribute, o.IDAttribute}
}

// findUser searches for the entry of an account. The errors are ErrNotFound and ErrUnavailable.
func (c *conn) findUser(ctx context.Context, deadline time.Time, name string) (*ldap3.Entry, error) {
	return c.findEntry(ctx, deadline, fillFilter(c.d.opts.UserFilter, name, ""))
}

// findEntry is findUser with any filter.
func (c *conn) findEntry(ctx context.Context, deadline time.Time, filter string) (*ldap3.Entry, error) {
	const doing = "search for the account"
	o := &c.d.opts
	entries, err := c.search(ctx, deadline, &ldap3.SearchRequest{
		BaseDN: o.UserBase, Scope: ldap3.ScopeWholeSubtree, SizeLimit: 2,
		Filter: filter, Attributes: o.attributes(),
	})
	switch {
	case len(entries) > 1 || ldap3.IsErrorWithCode(err, ldap3.LDAPResultSizeLimitExceeded):
		return nil, unavailable(doing, errors.New("several entries match: make the user filter or base narrower"))
	case ldap3.IsErrorWithCode(err, ldap3.LDAPResultNoSuchObject):
		return nil, unavailable(doing, errors.New("the user base is not there, or the account that searches may not see it"))
	case err != nil:
		return nil, unavailable(doing, err)
	case len(entries) == 0:
		return nil, ErrNotFound
	}
	return entries[0], checkDN(entries[0].DN)
}

// readUser reads the entry with this DN. The errors are ErrNotFound and ErrUnavailable.
func (c *conn) readUser(ctx context.Context, deadline time.Time, dn string) (*ldap3.Entry, error) {
	const doing = "read the account"
	entry, err := c.read(ctx, deadline, dn, c.d.opts.attributes())
	if err != nil {
		return nil, unavailable(doing, err)
	}
	if entry != nil {
		return entry, checkDN(entry.DN)
	}
	// What may not be seen is not there either, so this counts only if what is above can be seen.
	parsed, err := ldap3.ParseDN(dn)
	if err != nil || len(parsed.RDNs) < 2 {
		return nil, unavailable(doing, errors.New("its DN is that of no entry below another one"))
	}
	parent, err := c.read(ctx, deadline, (&ldap3.DN{RDNs: parsed.RDNs[1:]}).String(), []string{"1.1"})
	if err != nil {
		return nil, unavailable(doing, err)
	}
	if parent == nil {
		return nil, unavailable(doing, errors.New("the folder of accounts is not there, or the account that searches may not see it"))
	}
	return nil, ErrNotFound
}

// read reads the entry with this DN; nil if there is none.
func (c *conn) read(ctx context.Context, deadline time.Time, dn string, attributes []string) (*ldap3.Entry, error) {
	entries, err := c.search(ctx, deadline, &ldap3.SearchRequest{
		BaseDN: dn, Scope: ldap3.ScopeBaseObject, SizeLimit: 1, Filter: "(objectClass=*)", Attributes: attributes,
	})
	switch {
	case ldap3.IsErrorWithCode(err, ldap3.LDAPResultNoSuchObject):
		return nil, nil
	case err != nil:
		return nil, err
	case len(entries) == 0:
		return nil, nil
	}
	return entries[0], nil
}

// search makes one search request. Entries that came before an error are returned with it.
func (c *conn) search(ctx context.Context, deadline time.Time, request *ldap3.SearchRequest) ([]*ldap3.Entry, error) {
	result, err := c.searchPage(ctx, deadline, request)
	if result == nil {
		return nil, err
	}
	return result.Entries, err
}

func (c *conn) searchPage(ctx context.Context, deadline time.Time, request *ldap3.SearchRequest) (result *ldap3.SearchResult, err error) {
	request.DerefAliases = ldap3.NeverDerefAliases
	request.TimeLimit = max(1, int(math.Ceil(time.Until(deadline).Seconds())))
	err = c.do(ctx, deadline, func() error {
		var err error
		result, err = c.ldap.Search(request)
		return err
	})
	return result, err
}

// checkDN refuses a DN that no directory has: nobody binds with an empty one, nor sends back what is endless.
func checkDN(dn string) error {
	if dn == "" || len(dn) > 4096 || !utf8.ValidString(dn) {
		return unavailable("read an entry", errors.New("its DN is empty, too long or not text"))
	}
	return nil
}

// person makes a Person of an account's entry, and looks for its groups.
func (c *conn) person(ctx context.Context, deadline time.Time, entry *ldap3.Entry) (*Person, error) {
	o := &c.d.opts
	// The order of values means nothing, so that of several names the smallest counts, always.
	names := entry.GetEqualFoldAttributeValues(o.NameAttribute)
	if len(names) == 0 {
		return nil, unavailable("read the account", fmt.Errorf("it has no readable attribute %s, which holds the name", o.NameAttribute))
	}
	name, err := UserName(slices.Min(names))
	if err != nil {
		return nil, err
	}
	p := &Person{
		Name: name, ID: idOf(entry, o.IDAttribute),
		DisplayName: line(entry.GetEqualFoldAttributeValue(o.DisplayNameAttribute)), Mail: line(entry.GetEqualFoldAttributeValue(o.MailAttribute)),
	}
	if p.ID == "" {
		return nil, unavailable("read the account", fmt.Errorf("it has no readable attribute %s, which holds the id", o.IDAttribute))
	}
	if o.GroupBase != "" {
		// What the directory calls the account, not what somebody entered.
		if p.Groups, err = c.groupsOf(ctx, deadline, slices.Min(names), entry.DN); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// idOf returns the id of an entry as text, "" if it has none or one that is no id.
func idOf(entry *ldap3.Entry, attribute string) string {
	var values [][]byte
	for _, a := range entry.Attributes {
		if strings.EqualFold(a.Name, attribute) {
			values = append(values, a.ByteValues...)
		}
	}
	if len(values) != 1 || len(values[0]) == 0 || len(values[0]) > 256 {
		return ""
	}
	id := values[0]
	if strings.EqualFold(attribute, "objectGUID") && len(id) == 16 {
		// Windows shows the first three fields of a GUID as numbers, which it keeps with the lowest byte first ([MS-DTYP] section 2.3.4).
		var u uuid.UUID
		binary.BigEndian.PutUint32(u[0:], binary.LittleEndian.Uint32(id[0:]))
		binary.BigEndian.PutUint16(u[4:], binary.LittleEndian.Uint16(id[4:]))
		binary.BigEndian.PutUint16(u[6:], binary.LittleEndian.Uint16(id[6:]))
		copy(u[8:], id[8:])
		return u.String()
	}
	if text := string(id); line(text) == text {
		return text
	}
	return hex.EncodeToString(id)
}

// filterByID returns the filter for what idOf made of an attribute.
func filterByID(attribute, id string) string {
	u, err := uuid.Parse(id)
	if err != nil || !strings.EqualFold(attribute, "objectGUID") {
		return "(" + attribute + "=" + ldap3.EscapeFilter(id) + ")"
	}
	b := slices.Clone(u[:])
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	var escaped strings.Builder
	for _, c := range b {
		fmt.Fprintf(&escaped, `\%02x`, c)
	}
	return "(" + attribute + "=" + escaped.String() + ")"
}

// line returns a value that is one line of text of at most 256 bytes, else nothing.
func line(value string) string {
	if len(value) > 256 || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return ""
	}
	return value
}
