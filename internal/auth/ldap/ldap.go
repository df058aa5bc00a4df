// Package ldap asks an LDAP directory who somebody is: with a password for a sign-in, without one to see whether an
// account still exists and which groups it is in.
//
// A password is checked by a simple bind (RFC 4513 section 5.1.3) and by nothing else. Either the account's entry is searched for
// first, with an account for searching or anonymously, or its DN follows from the name by a template. An empty
// password never reaches the directory, because a bind with one succeeds for every name (RFC 4513 section 5.1.2).
//
// What holds true of every answer: a name that the directory does not know and a wrong password give the same error, after about
// the same time. ErrNotFound is only said of a search that the directory answered in full; whatever else goes wrong is
// ErrUnavailable, so that nobody loses an account because a server was down, or because the account for searching lost its rights.
// Referrals are never followed, aliases never dereferenced.
//
// A directory that sends nonsense, or too much of it, costs an error: a message is at most 256 KiB, everything for one person 4 MiB, a person
// is in at most 10,000 groups, nested at most 64 deep, and each step has its time.
package ldap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	ldap3 "github.com/go-ldap/ldap/v3"
)

// The kinds of errors, for errors.Is. What they wrap is for the log, not for who signs in.
var (
	// ErrCredentials: there is no such account, or this is not its password, or it may not sign in.
	ErrCredentials = errors.New("wrong name or password")
	// ErrNotFound: the directory has no such account.
	ErrNotFound = errors.New("the directory has no such account")
	// ErrUnavailable: the directory could not be asked, or what it answers cannot be used.
	ErrUnavailable = errors.New("the directory cannot be used")
	// ErrName: the account's name in the directory cannot be the name of a user, see UserName.
	ErrName = errors.New("the name in the directory cannot be a user name")
)

// StartTLS says whether a connection to ldap:// is encrypted before it is used.
type StartTLS int

// The values of StartTLS.
const (
	StartTLSAuto StartTLS = iota // yes, unless the directory is on this machine
	StartTLSOn                   // yes
	StartTLSOff                  // no: whoever can read the traffic can read passwords
)

// Options configure a Directory. Templates hold {{name}} for the name that was given, escaped as its place demands.
type Options struct {
	// URL is ldap://HOST[:PORT] or ldaps://HOST[:PORT].
	URL      string
	StartTLS StartTLS // of ldap://
	// CAFile names a file of PEM certificates to trust beside the system's.
	CAFile string

	// BindDN and BindPassword are those of the account that searches. Without them searches are anonymous, or made
	// as who signs in if UserDN is set.
	BindDN, BindPassword string

	// UserDN, if not empty, is the template of an account's DN: uid={{name}},ou=people,dc=example,dc=org. Else the account
	// is the one entry below UserBase that UserFilter finds, by default (uid={{name}}).
	UserDN, UserBase, UserFilter string

	// The attributes of an account: its name, by default uid; its mail address, mail; the name to show, cn; and what stays the
	// same when the account is renamed, entryUUID (objectGUID with Active Directory).
	NameAttribute, MailAttribute, DisplayNameAttribute, IDAttribute string

	// GroupBase is where groups are searched for; empty for no groups. GroupFilter finds those that an account is in; it
	// holds {{dn}} for the account's DN, or {{name}}, and is (member={{dn}}) by default.
	GroupBase, GroupFilter string
	// GroupAttribute names a group, by default cn; dn stands for the whole DN.
	GroupAttribute string
	// NestedGroups also finds the groups that those groups are in.
	NestedGroups bool

	// Connections is how many are open at most, 4 by default.
	Connections int
	// DialTimeout is for connecting, TLS included, and for waiting for a free connection; BindTimeout for each bind; SearchTimeout for all searches
	// for one person together. 10 s each by default.
	DialTimeout, BindTimeout, SearchTimeout time.Duration
}

// Person is an account of the directory.
type Person struct {
	ID          string // never empty; stays when the account is renamed
	Name        string // as UserName returns it
	DisplayName string // may be empty, as Mail may
	Mail        string
	// Groups holds, in lower case, sorted and each once, the names or DNs (Options.GroupAttribute) of the groups.
	Groups []string
}

// Directory is an LDAP directory. All methods may be called concurrently.
type Directory struct {
	opts    Options
	address string      // host:port
	tls     *tls.Config // nil for no TLS
	ldaps   bool
	groups  groupFilter
	pool    pool
	pace    pace
}

// New returns the directory that the options describe. It makes no connection: Check does.
func New(opts Options) (*Directory, error) {
	d := &Directory{opts: opts}
	if err := d.configure(); err != nil {
		return nil, fmt.Errorf("ldap: %w", err)
	}
	return d, nil
}

func (d *Directory) configure() error {
	o := &d.opts
	def := func(value *string, standard string) {
		if *value == "" {
			*value = standard
		}
	}
	def(&o.UserFilter, "(uid={{name}})")
	def(&o.NameAttribute, "uid")
	def(&o.MailAttribute, "mail")
	def(&o.DisplayNameAttribute, "cn")
	def(&o.IDAttribute, "entryUUID")
	def(&o.GroupFilter, "(member={{dn}})")
	def(&o.GroupAttribute, "cn")
	for _, t := range []*time.Duration{&o.DialTimeout, &o.BindTimeout, &o.SearchTimeout} {
		if *t == 0 {
			*t = 10 * time.Second
		}
	}
	if o.Connections == 0 {
		o.Connections = 4
	}
	if o.Connections < 0 || o.DialTimeout < 0 || o.BindTimeout < 0 || o.SearchTimeout < 0 {
		return errors.New("the number of connections and the timeouts must not be negative")
	}
	d.pool.slots = make(chan struct{}, o.Connections)
	if err := d.configureServer(); err != nil {
		return err
	}
	if (o.BindDN == "") != (o.BindPassword == "") {
		return errors.New("a bind DN needs a bind password, and the other way round") // RFC 4513 section 5.1.2
	}
	if (o.UserDN == "") == (o.UserBase == "") {
		return errors.New("either a user DN or a user base is needed")
	}
	for what, dn := range map[string]string{
		"bind DN": o.BindDN, "user base": o.UserBase, "group base": o.GroupBase, "user DN": fillDN(o.UserDN, "name"),
	} {
		if _, err := ldap3.ParseDN(dn); err != nil {
			return fmt.Errorf("the %s is not a DN: %w", what, err)
		}
	}
	if o.UserDN != "" {
		if !strings.Contains(o.UserDN, "{{name}}") {
			return errors.New("the user DN must contain {{name}}")
		}
		if err := checkPlaceholders(o.UserDN, "name"); err != nil {
			return fmt.Errorf("the user DN: %w", err)
		}
	}
	if o.UserBase != "" {
		if !strings.Contains(o.UserFilter, "{{name}}") {
			return errors.New("the user filter must contain {{name}}")
		}
		if err := checkFilter(o.UserFilter, "name"); err != nil {
			return fmt.Errorf("the user filter: %w", err)
		}
	}
	if _, err := ldap3.CompileFilter(filterByID(o.IDAttribute, "id")); err != nil {
		return fmt.Errorf("the attribute of the id, %s, is none: %w", o.IDAttribute, err)
	}
	var err error
	if d.groups, err = parseGroupFilter(o.GroupFilter, o.NestedGroups); err != nil {
		return fmt.Errorf("the group filter: %w", err)
	}
	return nil
}

// configureServer takes the address and TLS from the options.
func (d *Directory) configureServer() error {
	o := &d.opts
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "ldap" && u.Scheme != "ldaps" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" {
		return errors.New("the URL is not of the form ldap://HOST:PORT or ldaps://HOST:PORT")
	}
	host, port := u.Hostname(), u.Port()
	d.ldaps = u.Scheme == "ldaps"
	if port == "" {
		port = ldap3.DefaultLdapPort
		if d.ldaps {
			port = ldap3.DefaultLdapsPort
		}
	}
	d.address = net.JoinHostPort(host, port)
	if !d.ldaps && (o.StartTLS == StartTLSOff || o.StartTLS == StartTLSAuto && loopback(host)) {
		if o.CAFile != "" {
			return errors.New("a CA file has no effect without TLS: use ldaps:// or StartTLS")
		}
		return nil
	}
	d.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if o.CAFile == "" {
		return nil
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return fmt.Errorf("read the certificates to trust: %w", err)
	}
	if d.tls.RootCAs, err = x509.SystemCertPool(); err != nil {
		d.tls.RootCAs = x509.NewCertPool()
	}
	if !d.tls.RootCAs.AppendCertsFromPEM(pem) {
		return fmt.Errorf("there is no certificate in %s", o.CAFile)
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Close closes the connections that are not in use. Those in use are closed by who uses them.
func (d *Directory) Close() { d.pool.close() }

// Check connects and binds as the account that searches, if there is one. The error is ErrUnavailable.
func (d *Directory) Check(ctx context.Context) error {
	return d.with(ctx, func(c *conn) error { return c.bindSearcher(ctx) })
}

// maxPassword bounds in bytes what is sent to the directory as a password.
const maxPassword = 1024

// Authenticate returns who signs in with this name and password. The errors are ErrCredentials, ErrUnavailable and ErrName. Not
// every name that leads to an account is Person.Name: directories ignore case, and a filter may look at other attributes, too.
func (d *Directory) Authenticate(ctx context.Context, name, password string) (*Person, error) {
	if !askable(name) || password == "" || len(password) > maxPassword {
		return nil, ErrCredentials
	}
	var p *Person
	err := d.with(ctx, func(c *conn) (err error) {
		if d.opts.UserDN != "" {
			p, err = c.signInByTemplate(ctx, name, password)
		} else {
			p, err = c.signInBySearch(ctx, name, password)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (c *conn) signInBySearch(ctx context.Context, name, password string) (*Person, error) {
	if err := c.bindSearcher(ctx); err != nil {
		return nil, err
	}
	search := c.d.searching()
	entry, err := c.findUser(ctx, search, name)
	if errors.Is(err, ErrNotFound) {
		// The time that the directory would have taken for a wrong password.
		if err := c.d.pace.wait(ctx, time.Now()); err != nil {
			return nil, unavailable("wait", err)
		}
		return nil, ErrCredentials
	}
	if err != nil {
		return nil, err
	}
	start := time.Now()
	if err := c.bindUser(ctx, entry.DN, password); err != nil {
		if errors.Is(err, ErrCredentials) {
			c.d.pace.add(time.Since(start))
		}
		return nil, err
	}
	c.d.pace.add(time.Since(start))
	if err := c.bindSearcher(ctx); err != nil {
		return nil, err
	}
	return c.person(ctx, c.d.searching(), entry)
}

func (c *conn) signInByTemplate(ctx context.Context, name, password string) (*Person, error) {
	dn := fillDN(c.d.opts.UserDN, name)
	start := time.Now()
	if err := c.bindUser(ctx, dn, password); err != nil {
		if errors.Is(err, ErrCredentials) {
			// The directory answers sooner if it has no password to compare with.
			if err := c.d.pace.wait(ctx, start); err != nil {
				return nil, unavailable("wait", err)
			}
		}
		return nil, err
	}
	c.d.pace.add(time.Since(start))
	if c.d.opts.BindDN != "" {
		if err := c.bindSearcher(ctx); err != nil {
			return nil, err
		}
	}
	search := c.d.searching()
	entry, err := c.readUser(ctx, search, dn)
	if errors.Is(err, ErrNotFound) {
		return nil, unavailable("read the entry of an account that has signed in", errors.New("it is not there or not readable: set a bind DN, or give accounts the right to read themselves"))
	}
	if err != nil {
		return nil, err
	}
	return c.person(ctx, search, entry)
}

// Lookup returns the account that Authenticate would find under this name. The errors are ErrNotFound, ErrUnavailable and ErrName.
// With UserDN and no BindDN nobody may look: the error is errors.ErrUnsupported then.
func (d *Directory) Lookup(ctx context.Context, name string) (*Person, error) {
	if d.opts.UserDN != "" && d.opts.BindDN == "" {
		return nil, fmt.Errorf("look up an account of the directory: set a bind DN for that: %w", errors.ErrUnsupported)
	}
	if !askable(name) {
		return nil, ErrNotFound
	}
	var p *Person
	err := d.with(ctx, func(c *conn) error {
		if err := c.bindSearcher(ctx); err != nil {
			return err
		}
		search := d.searching()
		var entry *ldap3.Entry
		var err error
		if d.opts.UserDN != "" {
			entry, err = c.readUser(ctx, search, fillDN(d.opts.UserDN, name))
		} else {
			entry, err = c.findUser(ctx, search, name)
		}
		if err != nil {
			return err
		}
		p, err = c.person(ctx, search, entry)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// LookupID returns the account that has an ID, under the name that it has now. The errors are those of Lookup. With UserDN there is no
// place to search in, so that an account that was renamed is ErrNotFound.
func (d *Directory) LookupID(ctx context.Context, id string) (*Person, error) {
	if d.opts.UserDN != "" || !askable(id) {
		return nil, ErrNotFound
	}
	var name string
	err := d.with(ctx, func(c *conn) error {
		if err := c.bindSearcher(ctx); err != nil {
			return err
		}
		entry, err := c.findEntry(ctx, d.searching(), filterByID(d.opts.IDAttribute, id))
		if err != nil {
			return err
		}
		if names := entry.GetEqualFoldAttributeValues(d.opts.NameAttribute); len(names) > 0 {
			name = slices.Min(names)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// It counts if it could sign in, too.
	p, err := d.Lookup(ctx, name)
	if err == nil && p.ID != id {
		return nil, ErrNotFound
	}
	return p, err
}

// searching returns until when the searches for a person may last that begin now.
func (d *Directory) searching() time.Time { return time.Now().Add(d.opts.SearchTimeout) }

// askable tells whether a directory may be asked for a name: any text of a line.
func askable(name string) bool {
	return name != "" && len(name) <= 256 && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}

// fillDN puts a name into the template of a DN (RFC 4514 section 2.4).
func fillDN(template, name string) string {
	return strings.ReplaceAll(template, "{{name}}", ldap3.EscapeDN(name))
}

// fillFilter puts a name and a DN into the template of a filter (RFC 4515 section 3).
func fillFilter(template, name, dn string) string {
	return strings.NewReplacer("{{name}}", ldap3.EscapeFilter(name), "{{dn}}", ldap3.EscapeFilter(dn)).Replace(template)
}

// checkFilter tells what is wrong with the template of a filter that knows these placeholders.
func checkFilter(template string, known ...string) error {
	if err := checkPlaceholders(template, known...); err != nil {
		return err
	}
	if _, err := ldap3.CompileFilter(fillFilter(template, "name", "cn=name")); err != nil {
		return fmt.Errorf("%s is not a filter of RFC 4515: %w", template, err)
	}
	return nil
}

func checkPlaceholders(template string, known ...string) error {
	for rest := template; ; {
		_, after, found := strings.Cut(rest, "{{")
		if !found {
			return nil
		}
		placeholder, after, _ := strings.Cut(after, "}}")
		if !slices.Contains(known, placeholder) {
			return fmt.Errorf("{{%s}} is not known here", placeholder)
		}
		rest = after
	}
}
