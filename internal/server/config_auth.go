package server

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/auth/htpasswd"
	"github.com/berthregistry/berth/internal/auth/ldap"
	"github.com/berthregistry/berth/internal/auth/oidc"
)

// AuthConfig is about access control.
type AuthConfig struct {
	// Whether clients must sign in for what is not public. Without it, everybody who reaches the registry may pull,
	// push and delete. The first account is made by "berth user add NAME --admin" while no server runs, or with the
	// command that the server writes to its log when it starts without any account.
	Enabled bool `yaml:"enabled"`

	// What the registry is called in tokens and challenges; empty for the host of external_url, or berth.
	Service string `yaml:"service"`

	// How long a bearer token can be used; a client gets the next one by itself. What is taken away from an
	// account is gone at once all the same.
	TokenLifetime Duration `yaml:"token_lifetime"`

	// How long a key signs tokens before the next one does, by itself.
	KeyLifetime Duration `yaml:"key_lifetime"`

	// Whether a client whose certificate tls.client_ca has signed is signed in as the account that is its common name,
	// without a password.
	ClientCertificates bool `yaml:"client_certificates"`

	// How often accounts of a directory or a file are looked up there: those that are gone are disabled, groups are
	// taken over. 0 for never.
	SyncInterval Duration `yaml:"sync_interval"`

	// How long entries of the audit log are kept; 0 for ever.
	AuditRetention Duration `yaml:"audit_retention"`

	// Where entries of the audit log are forwarded to, beside being kept.
	AuditForward AuditForwardConfig `yaml:"audit_forward"`

	// A file of accounts, as "htpasswd -B" makes it; it is read again when it changes.
	Htpasswd string `yaml:"htpasswd"`

	// A directory of accounts.
	LDAP LDAPConfig `yaml:"ldap"`

	// Issuers of tokens whose addresses need more than their URL. Others that trust rules name need none of this. Example:
	//
	//	issuers:
	//	  - issuer: https://gitlab.example.com
	//	    ca_file: /etc/berth/gitlab-ca.pem
	Issuers []IssuerConfig `yaml:"issuers"`

	// OpenID Connect providers at which people sign in, with a browser at /auth/oidc or with "berth login". external_url
	// is needed, because browsers are sent back to EXTERNAL_URL/auth/oidc/NAME/callback. Example:
	//
	//	oidc:
	//	  - name: corp
	//	    issuer: https://keycloak.example.com/realms/corp
	//	    client_id: berth
	//	    client_secret: file:/etc/berth/oidc-secret
	//	    groups_claim: groups
	OIDC []OIDCConfig `yaml:"oidc"`
}

// AuditForwardConfig says where the audit log goes. All that is kept is sent, in order, what is older than this setting too. While a receiver
// is down the log waits for it in the database, and is not deleted.
type AuditForwardConfig struct {
	// A syslog server (RFC 5424): tls://HOST[:6514], tcp://HOST[:601], udp://HOST[:514] or unix:///PATH; empty for none. udp may lose messages.
	Syslog SyslogURL `yaml:"syslog"`

	// The facility of the messages, 0 to 23: 13 is "log audit", 10 is authpriv, 16 to 23 are local0 to local7.
	SyslogFacility int `yaml:"syslog_facility"`

	// A file of certificates, in PEM, to trust as the server's in place of those of the system (tls).
	SyslogCAFile string `yaml:"syslog_ca_file"`

	// A file with a certificate, in PEM, by which the server knows this one (tls).
	SyslogCertificate string `yaml:"syslog_certificate"`

	// The file with its key, in PEM.
	SyslogKey string `yaml:"syslog_key"`

	// A file to which each entry is added as a line of JSON; empty for none. It may be rotated at any time. Of several nodes, one at a time writes to
	// it, so it should be where all have it.
	File string `yaml:"file"`
}

// OIDCConfig is a provider at which people sign in.
type OIDCConfig struct {
	// A part of addresses, and of the source oidc:NAME of accounts and groups: lower-case letters and digits, with '-' between.
	Name string `yaml:"name"`
	// What people read; empty for the name.
	Label string `yaml:"label" optional:""`
	// The URL of the issuer, exactly as in its tokens.
	Issuer string `yaml:"issuer"`
	// What the issuer calls this registry.
	ClientID string `yaml:"client_id"`
	// What proves it, if the issuer asks for that; file:PATH reads it from a file.
	ClientSecret Secret `yaml:"client_secret" optional:""`
	// A file of certificates, in PEM, to trust in place of those of the system.
	CAFile string `yaml:"ca_file" optional:""`
	// What is asked for; empty for openid, profile and email.
	Scopes []string `yaml:"scopes" optional:""`
	// The claim that user names are made of; empty for preferred_username.
	NameClaim string `yaml:"name_claim" optional:""`
	// A domain: @DOMAIN is taken from the end of names, and names of other domains are refused.
	NameDomain string `yaml:"name_domain" optional:""`
	// The claim with somebody's groups, or a path such as realm_access.roles; empty to not look at groups.
	GroupsClaim string `yaml:"groups_claim" optional:""`
	// What the issuer calls the command line: a public client with the device flow; empty if there is none.
	DeviceClientID string `yaml:"device_client_id" optional:""`
	// How long a sign-in counts: when somebody has not signed in again by then, all their tokens rest until they do, so that who has left
	// the provider has none. Empty for 30d.
	SignInLifetime Duration `yaml:"sign_in_lifetime" optional:""`
}

// IssuerConfig says how an issuer of tokens is reached.
type IssuerConfig struct {
	// The URL of the issuer, exactly as in its tokens.
	Issuer string `yaml:"issuer"`
	// A file of certificates, in PEM, to trust in place of those of the system.
	CAFile string `yaml:"ca_file" optional:""`
	// A file with the issuer's keys (a JWK Set). The issuer is never asked then.
	JWKSFile string `yaml:"jwks_file" optional:""`
}

// LDAPConfig is a directory. Without url there is none.
type LDAPConfig struct {
	// ldap://HOST[:PORT] or ldaps://HOST[:PORT].
	URL string `yaml:"url"`

	// Whether a connection to ldap:// is encrypted before it is used; auto is on, unless the directory is on this machine.
	StartTLS Switch `yaml:"start_tls"`

	// A file of certificates, in PEM, to trust beside those of the system.
	CAFile string `yaml:"ca_file"`

	// The DN of the account that searches; empty for searches without one.
	BindDN string `yaml:"bind_dn"`

	// Its password; file:PATH reads it from a file.
	BindPassword Secret `yaml:"bind_password"`

	// The DN of who signs in as {{name}}, such as uid={{name}},ou=people,dc=example,dc=org; empty to search for it.
	UserDN string `yaml:"user_dn"`

	// Below what accounts are searched for.
	UserBase string `yaml:"user_base"`

	// Which entry is the account of who signs in as {{name}}.
	UserFilter string `yaml:"user_filter"`

	// The attribute that is the user's name here.
	NameAttribute string `yaml:"name_attribute"`

	// The attribute with the mail address.
	MailAttribute string `yaml:"mail_attribute"`

	// The attribute with the name to show.
	DisplayNameAttribute string `yaml:"display_name_attribute"`

	// The attribute that stays the same when an account is renamed.
	IDAttribute string `yaml:"id_attribute"`

	// Below what groups are searched for; empty for no groups.
	GroupBase string `yaml:"group_base"`

	// Which groups an account is in, by its DN {{dn}} or its name {{name}}.
	GroupFilter string `yaml:"group_filter"`

	// The attribute that is a group's name here; dn for the whole DN.
	GroupAttribute string `yaml:"group_attribute"`

	// Whether the groups count, too, that those groups are in.
	NestedGroups bool `yaml:"nested_groups"`

	// How many connections are open at most.
	Connections int `yaml:"connections"`

	// How long a sign-in with the password counts: when somebody has not signed in again by then, all their tokens rest until they do.
	// 0 for as long as the directory has the account, or for 30d where that is not looked up: without sync_interval, or with
	// user_dn and no bind_dn.
	SignInLifetime Duration `yaml:"sign_in_lifetime"`

	// The longest wait for connecting, TLS included, and for a free connection.
	DialTimeout Duration `yaml:"dial_timeout"`

	// The longest wait for the answer whether a password is right.
	BindTimeout Duration `yaml:"bind_timeout"`

	// The longest wait for finding a person and all its groups.
	SearchTimeout Duration `yaml:"search_timeout"`
}

func defaultAuth() AuthConfig {
	return AuthConfig{
		TokenLifetime: Duration(5 * time.Minute),
		KeyLifetime:   Duration(30 * 24 * time.Hour),
		SyncInterval:  Duration(15 * time.Minute),

		AuditRetention: Duration(365 * 24 * time.Hour),
		AuditForward:   AuditForwardConfig{SyslogFacility: 13},
		LDAP: LDAPConfig{
			StartTLS:             SwitchAuto,
			UserFilter:           "(uid={{name}})",
			NameAttribute:        "uid",
			MailAttribute:        "mail",
			DisplayNameAttribute: "cn",
			IDAttribute:          "entryUUID",
			GroupFilter:          "(member={{dn}})",
			GroupAttribute:       "cn",
			Connections:          4,
			DialTimeout:          Duration(10 * time.Second),
			BindTimeout:          Duration(10 * time.Second),
			SearchTimeout:        Duration(10 * time.Second),
		},
	}
}

// Service is what the registry is called in tokens and challenges.
func (c *Config) Service() string {
	if c.Auth.Service != "" {
		return c.Auth.Service
	}
	if u, err := url.Parse(string(c.ExternalURL)); err == nil && u.Host != "" {
		return u.Host
	}
	return "berth"
}

// options returns what the package ldap needs.
func (l *LDAPConfig) options() ldap.Options {
	return ldap.Options{
		URL:                  l.URL,
		StartTLS:             map[Switch]ldap.StartTLS{SwitchAuto: ldap.StartTLSAuto, SwitchOn: ldap.StartTLSOn, SwitchOff: ldap.StartTLSOff}[l.StartTLS],
		CAFile:               l.CAFile,
		BindDN:               l.BindDN,
		BindPassword:         l.BindPassword.Reveal(),
		UserDN:               l.UserDN,
		UserBase:             l.UserBase,
		UserFilter:           l.UserFilter,
		NameAttribute:        l.NameAttribute,
		MailAttribute:        l.MailAttribute,
		DisplayNameAttribute: l.DisplayNameAttribute,
		IDAttribute:          l.IDAttribute,
		GroupBase:            l.GroupBase,
		GroupFilter:          l.GroupFilter,
		GroupAttribute:       l.GroupAttribute,
		NestedGroups:         l.NestedGroups,
		Connections:          l.Connections,
		DialTimeout:          l.DialTimeout.D(),
		BindTimeout:          l.BindTimeout.D(),
		SearchTimeout:        l.SearchTimeout.D(),
	}
}

// checkAuth looks at the settings of access control, none of which has an effect without it.
func (c *Config) checkAuth(require func(ok bool, key, format string, args ...any)) {
	a := c.Auth
	if !a.Enabled {
		defaults := defaultAuth()
		def := settings(reflect.ValueOf(&defaults).Elem(), "auth.")
		for i, set := range settings(reflect.ValueOf(&a).Elem(), "auth.") {
			require(text(set.value) == text(def[i].value), set.key, "this has no effect without auth.enabled")
		}
		return
	}
	require(!strings.ContainsAny(a.Service, "\"\\\r\n\t ,"), "auth.service", "%q must be a name without spaces, quotes and commas", a.Service)
	require(!a.ClientCertificates || c.TLS.ClientCA != "", "auth.client_certificates", "this has no effect without tls.client_ca")
	require(a.TokenLifetime.D() >= time.Minute && a.TokenLifetime.D() <= 24*time.Hour, "auth.token_lifetime", "%s must be between a minute and a day", a.TokenLifetime)
	require(a.KeyLifetime.D() >= time.Hour, "auth.key_lifetime", "%s is too short: it must be an hour at least", a.KeyLifetime)
	require(a.SyncInterval == 0 || a.SyncInterval.D() >= time.Second, "auth.sync_interval", "%s is too short: it must be a second at least, or 0", a.SyncInterval)
	if a.LDAP.URL == "" {
		defaults := defaultAuth().LDAP
		def := settings(reflect.ValueOf(&defaults).Elem(), "auth.ldap.")
		for i, set := range settings(reflect.ValueOf(&a.LDAP).Elem(), "auth.ldap.") {
			require(text(set.value) == text(def[i].value), set.key, "this has no effect without auth.ldap.url")
		}
	}
	require(a.LDAP.SignInLifetime == 0 || a.LDAP.SignInLifetime.D() >= minSignIn, "auth.ldap.sign_in_lifetime", "%s is too short: it must be %s at least, or 0", a.LDAP.SignInLifetime, minSignIn)
	c.checkAuditForward(require)
	c.checkOIDC(require)
}

// openSources opens what accounts are kept in beside the database. The function that it returns closes it.
func openSources(a *AuthConfig, log *slog.Logger) (sources []auth.Source, closeAll func(), err error) {
	closeAll = func() {}
	if a.Htpasswd != "" {
		f, err := htpasswd.Open(a.Htpasswd, log)
		if err != nil {
			return nil, nil, fmt.Errorf("auth.htpasswd: %w", err)
		}
		sources = append(sources, auth.Htpasswd{File: f})
	}
	if a.LDAP.URL != "" {
		d, err := ldap.New(a.LDAP.options())
		if err != nil {
			return nil, nil, fmt.Errorf("auth.ldap: %w", err)
		}
		closeAll = d.Close
		sources = append(sources, auth.LDAP{Directory: d})
	}
	return sources, closeAll, nil
}

// minSignIn is less than anybody wants to sign in again after, and more than what is remembered of a password.
const minSignIn = 5 * time.Minute

// signInLifetimes returns how long sign-ins at sources count, where that has an end.
func (a *AuthConfig) signInLifetimes() map[string]time.Duration {
	all := make(map[string]time.Duration)
	for _, p := range a.OIDC {
		all[auth.PeopleSource(p.Name)] = cmp.Or(p.SignInLifetime.D(), auth.DefaultSignInLifetime)
	}
	l := a.LDAP
	lifetime := l.SignInLifetime.D()
	if lifetime == 0 && (a.SyncInterval == 0 || l.UserDN != "" && l.BindDN == "") {
		lifetime = auth.DefaultSignInLifetime
	}
	if lifetime > 0 {
		all[auth.LDAP{}.Name()] = lifetime
	}
	return all
}

// issuers returns what the package oidc needs.
func (a *AuthConfig) issuers() []oidc.Options {
	var all []oidc.Options
	for _, i := range a.Issuers {
		all = append(all, oidc.Options{Issuer: i.Issuer, CAFile: i.CAFile, JWKSFile: i.JWKSFile})
	}
	return all
}
