package server

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// check returns what is wrong with values that are well-formed each.
func (c *Config) check() []Problem {
	var problems []Problem
	require := func(ok bool, key, format string, args ...any) {
		if !ok {
			problems = append(problems, c.problem(key, fmt.Sprintf(format, args...)))
		}
	}
	atLeast := func(d Duration, least time.Duration, key string) {
		require(d.D() >= least, key, "%s is too short: it must be %s at least", d, Duration(least))
	}

	require(c.Listen != "", "listen", "an address is needed, such as 127.0.0.1:5000")
	if ip, ok := c.Listen.literal(); ok {
		if err := c.checkExposure(c.Listen, ip); err != nil {
			require(false, "listen", "%v", err)
		}
	}
	require(c.Data != "" || c.Stateless(), "data", "a folder is needed, such as ./berth-data")
	if c.Database.IsSet() {
		scheme, _, _ := strings.Cut(c.Database.Reveal(), "://")
		require(scheme == "postgres" || scheme == "postgresql", "database", "this is not a URL of PostgreSQL: write postgres://USER:PASSWORD@HOST/NAME")
	}
	require(c.DatabasePool.Connections >= 2, "database_pool.connections", "%d must be at least 2", c.DatabasePool.Connections)
	atLeast(c.DatabasePool.Timeout, 100*time.Millisecond, "database_pool.timeout")
	c.checkS3(require)
	c.checkTLS(require)

	c.checkAuth(require)

	l := c.Limits
	require(l.Manifest >= 4<<20, "limits.manifest", "%s is too small: clients count on 4MiB", l.Manifest)
	require(l.Manifest <= 256<<20, "limits.manifest", "%s is too large: manifests are held in memory, 256MiB at most", l.Manifest)
	require(l.Header >= 8<<10 && l.Header <= 16<<20, "limits.header", "%s must be between 8KiB and 16MiB", l.Header)
	require(l.Uploads >= 1, "limits.uploads", "%d must be at least 1", l.Uploads)
	require(l.Connections >= 1, "limits.connections", "%d must be at least 1", l.Connections)

	c.checkRateLimits(require)

	atLeast(c.Timeouts.Idle, time.Second, "timeouts.idle")
	atLeast(c.Timeouts.Header, time.Second, "timeouts.header")
	atLeast(c.Timeouts.KeepAlive, time.Second, "timeouts.keep_alive")
	atLeast(c.Uploads.Expire, time.Second, "uploads.expire")
	if c.Collection.Interval != 0 {
		atLeast(c.Collection.Interval, time.Second, "collection.interval")
	}
	if c.Retention.Interval != 0 {
		atLeast(c.Retention.Interval, time.Second, "retention.interval")
	}
	require(c.Retention.Limit >= 1, "retention.limit", "%d must be at least 1", c.Retention.Limit)
	b, noBackup := c.Backup, Default().Backup
	require(b.To != "" || b == noBackup, "backup.to", "a place is needed where backups are to be kept")
	if b.To != "" {
		if err := c.checkBackup(b.To); err != nil {
			require(false, "backup.to", "%v", err)
		}
	}
	atLeast(b.Interval, time.Second, "backup.interval")
	require(b.Keep >= 0, "backup.keep", "%d must be at least 0", b.Keep)
	atLeast(c.Journal.Interval, 100*time.Millisecond, "journal.interval")
	require(c.Collection.Rate >= 0, "collection.rate", "%d must be 0 or more", c.Collection.Rate)
	sc := c.Scrub
	if sc.Interval != 0 {
		atLeast(sc.Interval, time.Second, "scrub.interval")
	}
	require(sc.Rate == 0 || sc.Rate >= 64<<10, "scrub.rate", "%s must be 0 or 64KiB at least", sc.Rate)
	require(sc.ReplicaUser == "" || sc.Replica != "", "scrub.replica_user", "this has no effect without scrub.replica")
	require((sc.ReplicaUser != "") == sc.ReplicaPassword.IsSet(), "scrub.replica_password", "scrub.replica_user and scrub.replica_password must both be set, or neither")
	require(!strings.HasPrefix(string(sc.Replica), "http:") || !sc.ReplicaPassword.IsSet(), "scrub.replica", "the password would be sent in the clear: use https")

	m := c.Metrics
	if ip, ok := m.Listen.literal(); ok {
		if err := c.checkMetricsExposure(m.Listen, ip); err != nil {
			require(false, "metrics.listen", "%v", err)
		}
	}
	require(m.Listen != "" || !m.Token.IsSet(), "metrics.token", "this has no effect without metrics.listen")
	require(m.Listen != "" || !m.Profiles, "metrics.profiles", "this has no effect without metrics.listen")
	return problems
}

// checkS3 looks at the bucket's settings, none of which has an effect without a bucket.
func (c *Config) checkS3(require func(ok bool, key, format string, args ...any)) {
	s, def := c.Storage.S3, Default().Storage.S3
	const section = "storage.s3."
	if s.Bucket == "" {
		defaults := settings(reflect.ValueOf(&def).Elem(), section)
		for i, set := range settings(reflect.ValueOf(&s).Elem(), section) {
			require(text(set.value) == text(defaults[i].value), set.key, "this has no effect without storage.s3.bucket")
		}
		return
	}
	require(s.Endpoint != "" || s.Region != "", section+"region", "a region is needed where no endpoint is given, such as eu-central-1")
	require(s.AccessKeyID.IsSet() == s.SecretAccessKey.IsSet(), section+"access_key_id", "access_key_id and secret_access_key must both be set, or neither")
	require(!s.SessionToken.IsSet() || s.AccessKeyID.IsSet(), section+"session_token", "this has no effect without access_key_id")
	require(s.KMSKey == "" || s.Encryption == EncryptionKMS, section+"kms_key", "this has no effect unless encryption is kms")
	require(!strings.HasPrefix(s.Prefix, "/"), section+"prefix", "%q must not begin with a slash: it would be a part of the name that few tools can show", s.Prefix)
	require(s.PartSize == 0 || s.PartSize >= 5<<20 && s.PartSize <= 5<<30, section+"part_size", "%s must be 0 or between 5MiB and 5GiB", s.PartSize)
	require(s.RedirectExpire >= Duration(time.Minute) && s.RedirectExpire <= Duration(7*24*time.Hour), section+"redirect_expire",
		"%s must be between 1m and 7d", s.RedirectExpire)
}

// checkTLS looks at the settings of TLS, most of which have no effect without certificates.
func (c *Config) checkTLS(require func(ok bool, key, format string, args ...any)) {
	t := c.TLS
	const section = "tls."
	require(t.Certificate == "" || t.Key != "", section+"key", "the key of tls.certificate is needed")
	require(t.Key == "" || t.Certificate != "", section+"certificate", "the certificate of tls.key is needed")
	require(len(t.More) == 0 || t.Certificate != "", section+"more", "this has no effect without tls.certificate")
	for i, m := range t.More {
		require(m.Certificate != "" && m.Key != "", section+"more", "item %d needs both certificate and key", i+1)
	}
	const without = "this has no effect without tls.certificate or tls.acme.hosts"
	require(t.ClientCA == "" || t.on(), section+"client_ca", without)
	require(t.RedirectListen == "" || t.on(), section+"redirect_listen", without)
	require(t.ClientCertificate != PresenceRequired || t.ClientCA != "", section+"client_certificate", "this has no effect without tls.client_ca")
	require(!t.on() || !strings.HasPrefix(string(c.ExternalURL), "http://"), "external_url", "%s must begin with https:// because TLS is on", c.ExternalURL)
	c.checkACME(require)
}

func (c *Config) checkACME(require func(ok bool, key, format string, args ...any)) {
	a, def := c.TLS.ACME, Default().TLS.ACME
	const section = "tls.acme."
	if len(a.Hosts) == 0 {
		defaults := settings(reflect.ValueOf(&def).Elem(), section)
		for i, set := range settings(reflect.ValueOf(&a).Elem(), section) {
			require(text(set.value) == text(defaults[i].value), set.key, "this has no effect without tls.acme.hosts")
		}
		return
	}
	require(a.AcceptTerms, section+"accept_terms", "read the terms of service of the authority and set this to true, or it issues no certificates")
	require(a.Email == "" || strings.Count(a.Email, "@") == 1 && !strings.ContainsAny(a.Email, ":, "), section+"email", "%q is not one e-mail address", clip([]byte(a.Email)))
	require(a.EABKeyID == "" || a.EABKey.IsSet(), section+"eab_key", "the key of tls.acme.eab_key_id is needed")
	require(!a.EABKey.IsSet() || a.EABKeyID != "", section+"eab_key_id", "the name of tls.acme.eab_key is needed")
	_, err := a.eabKey()
	require(err == nil, section+"eab_key", "this is not base64, as the authority gives it")
}

// problem says where the value of a setting comes from. The name of a flag or a variable
// is the setting's name already.
func (c *Config) problem(key, message string) Problem {
	where := c.sources[key]
	if where == "--"+FlagName(key) || where == envName(key) {
		key = ""
	}
	return Problem{Where: where, Key: key, Message: message}
}
