package server

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

// writeConfig returns the path of a file with the text, relative to a folder of its own, so
// that messages are the same in every run.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("berth.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "berth.yaml"
}

func load(t *testing.T, from Places) *Config {
	t.Helper()
	c, err := Load(from)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNoConfigurationIsTheDefault(t *testing.T) {
	c := load(t, Places{Env: []string{"PATH=/bin", "BERTHOLD=x", "BERTH_REGISTRY=localhost:5000"}})
	c.sources = nil
	if want := Default(); !reflect.DeepEqual(c, want) {
		t.Errorf("loaded %+v\nwant   %+v", c, want)
	}
	if c.Listen != "127.0.0.1:5000" || c.Data != "./berth-data" || c.InsecureOpen {
		t.Errorf("listen %q, data %q, insecure_open %v", c.Listen, c.Data, c.InsecureOpen)
	}
}

func TestPrecedence(t *testing.T) {
	file := writeConfig(t, "log: {level: error, format: json}\ndata: from-file\nlisten: 127.0.0.1:1\n")
	c := load(t, Places{
		File:  file,
		Env:   []string{"BERTH_DATA=from-env", "BERTH_LISTEN=127.0.0.1:2"},
		Flags: map[string]string{"listen": "127.0.0.1:3"},
	})
	for _, s := range []struct{ key, got, want, source, wantSource string }{
		{"listen", string(c.Listen), "127.0.0.1:3", c.sources["listen"], "--listen"},
		{"data", c.Data, "from-env", c.sources["data"], "BERTH_DATA"},
		{"log.level", string(c.Log.Level), "error", c.sources["log.level"], "berth.yaml:1"},
		{"sparse", string(c.Sparse), "index", c.sources["sparse"], ""},
	} {
		if s.got != s.want || s.source != s.wantSource {
			t.Errorf("%s is %q from %q, want %q from %q", s.key, s.got, s.source, s.want, s.wantSource)
		}
	}
}

func TestEnvironmentNamesTheFile(t *testing.T) {
	file := writeConfig(t, "data: from-file\n")
	if c := load(t, Places{Env: []string{"BERTH_CONFIG=" + file}}); c.Data != "from-file" {
		t.Errorf("data is %q", c.Data)
	}
	other := filepath.Join(t.TempDir(), "other.yaml")
	if err := os.WriteFile(other, []byte("data: other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c := load(t, Places{File: other, Env: []string{"BERTH_CONFIG=" + file}}); c.Data != "other" {
		t.Errorf("--config does not win over BERTH_CONFIG: data is %q", c.Data)
	}
	if _, err := Load(Places{File: "absent.yaml"}); err == nil || !strings.Contains(err.Error(), "absent.yaml") {
		t.Errorf("a missing file gives %v", err)
	}
	if err := os.WriteFile(other, make([]byte, maxConfig+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Places{File: other}); err == nil || err.Error() != "read the configuration: "+other+" has more than 1MiB" {
		t.Errorf("a large file gives %v", err)
	}
}

func TestEverySettingFromEverywhere(t *testing.T) {
	const text = `
listen: unix:/run/berth.sock
data: /srv/berth
database: postgres://berth:s3cret@db.example.com/berth
database_pool: {connections: 7, timeout: 3s}
storage:
  s3:
    bucket: registry
    endpoint: http://s3.example.com:9000
    region: garage
    prefix: berth/
    path_style: off
    access_key_id: AK
    secret_access_key: SK
    session_token: ST
    credentials_file: /etc/aws
    profile: ci
    ca_file: /etc/ca.pem
    part_size: 16MiB
    storage_class: STANDARD_IA
    encryption: kms
    kms_key: k
    redirect: https://s3.public.example.com
    redirect_except: [10.0.0.0/8]
    redirect_expire: 5m
read_only: true
tls:
  certificate: /etc/a.crt
  key: /etc/a.key
  more: [{certificate: /etc/b.crt, key: /etc/b.key}]
  client_ca: /etc/clients.crt
  client_certificate: required
  redirect_listen: ":80"
  acme:
    hosts: [a.example.com, B.Example.COM]
    directory: https://acme.example.com/directory
    accept_terms: true
    email: me@example.com
    ca_file: /etc/acme.crt
    eab_key_id: kid
    eab_key: c2VjcmV0
insecure_open: true
external_url: https://registry.example.com/
trusted_proxies: [10.0.0.0/8, 192.0.2.7, "fd00::1/8"]
sparse: all
repositories:
  - {match: "mirror/**", sparse: none}
delete: false
disk_reserve: 10%
limits: {manifest: 8MiB, header: 64KiB, uploads: 3, connections: 9}
rate_limits:
  anonymous: {requests: 50/s, pulls: 100/6h, pushes: 1/1m}
  accounts: {requests: 500/1s, pulls: 1000/h, pushes: 2/1d}
  sign_in: 60/1m
  ipv4_prefix: 24
  ipv6_prefix: 56
  exempt_networks: [10.0.0.0/8, "::1"]
  exempt_accounts: [deploy, team+ci]
timeouts: {idle: 2m, header: 5s, keep_alive: 1h30m, stop: 0s}
uploads: {expire: 7d}
trash: {keep: 36h}
collection: {interval: 0s, grace: 36h, window: "22:00-06:00", rate: 50}
scrub: {interval: 7d, rate: 1MiB, window: "01:30-05:00", replica: "https://mirror.example.com", replica_user: me, replica_password: RP}
retention: {interval: 12h, window: "02:00-04:00", limit: 500}
journal: {interval: 10s}
backup: {to: /var/backups/berth, interval: 12h, keep: 3}
log: {level: warn, format: json, access: false}
metrics: {listen: "127.0.0.1:9000", token: abc, profiles: true}
auth:
  enabled: true
  service: hub
  client_certificates: true
  token_lifetime: 10m
  key_lifetime: 7d
  sync_interval: 1h
  audit_retention: 0s
  audit_forward: {syslog: "tls://logs.example.com:6514", syslog_facility: 10, syslog_ca_file: /etc/logs.pem, syslog_certificate: /etc/berth.crt, syslog_key: /etc/berth.key, file: /var/log/audit}
  htpasswd: /etc/htpasswd
  ldap: {url: "ldaps://ldap.example.com", start_tls: off, ca_file: /etc/ldap.pem, bind_dn: cn=berth, bind_password: LP, user_dn: "uid={{name}}", user_base: ou=p,
    user_filter: "(cn={{name}})", name_attribute: a, mail_attribute: b, display_name_attribute: c, id_attribute: d, group_base: ou=g, group_filter: "(memberUid={{name}})",
    group_attribute: dn, nested_groups: true, connections: 2, dial_timeout: 1s, bind_timeout: 2s, search_timeout: 3s, sign_in_lifetime: 9d}
  issuers: [{issuer: "https://ci.example.com", ca_file: /etc/ci.pem}]
  oidc:
    - {name: corp, label: Corp, issuer: "https://accounts.example.com", client_id: berth, client_secret: OS, ca_file: /etc/corp.pem, scopes: [openid, groups],
      name_claim: email, name_domain: corp.example, groups_claim: groups, device_client_id: berth-cli, sign_in_lifetime: 7d}
`
	environ := []string{
		"BERTH_LISTEN=unix:/run/berth.sock", "BERTH_DATA=/srv/berth", "BERTH_INSECURE_OPEN=true",
		"BERTH_EXTERNAL_URL=https://registry.example.com/", "BERTH_TRUSTED_PROXIES=10.0.0.0/8, 192.0.2.7,fd00::1/8",
		"BERTH_SPARSE=all", "BERTH_REPOSITORIES=[{match: mirror/**, sparse: none}]", "BERTH_DELETE=false",
		"BERTH_DISK_RESERVE=10%", "BERTH_LIMITS_MANIFEST=8MiB", "BERTH_LIMITS_HEADER=64KiB", "BERTH_LIMITS_UPLOADS=3",
		"BERTH_RATE_LIMITS_ANONYMOUS_REQUESTS=50/s", "BERTH_RATE_LIMITS_ANONYMOUS_PULLS=100/6h", "BERTH_RATE_LIMITS_ANONYMOUS_PUSHES=1/1m",
		"BERTH_RATE_LIMITS_ACCOUNTS_REQUESTS=500/1s", "BERTH_RATE_LIMITS_ACCOUNTS_PULLS=1000/h", "BERTH_RATE_LIMITS_ACCOUNTS_PUSHES=2/1d",
		"BERTH_RATE_LIMITS_SIGN_IN=60/1m", "BERTH_RATE_LIMITS_IPV4_PREFIX=24", "BERTH_RATE_LIMITS_IPV6_PREFIX=56",
		"BERTH_RATE_LIMITS_EXEMPT_NETWORKS=10.0.0.0/8,::1", "BERTH_RATE_LIMITS_EXEMPT_ACCOUNTS=deploy, team+ci",
		"BERTH_LIMITS_CONNECTIONS=9", "BERTH_TIMEOUTS_IDLE=2m", "BERTH_TIMEOUTS_HEADER=5s", "BERTH_TIMEOUTS_KEEP_ALIVE=1h30m",
		"BERTH_TIMEOUTS_STOP=0s", "BERTH_UPLOADS_EXPIRE=7d", "BERTH_COLLECTION_INTERVAL=0s", "BERTH_COLLECTION_GRACE=36h", "BERTH_TRASH_KEEP=36h",
		"BERTH_JOURNAL_INTERVAL=10s", "BERTH_BACKUP_TO=/var/backups/berth", "BERTH_BACKUP_INTERVAL=12h", "BERTH_BACKUP_KEEP=3",
		"BERTH_COLLECTION_WINDOW=22:00-06:00", "BERTH_COLLECTION_RATE=50", "BERTH_SCRUB_INTERVAL=7d", "BERTH_SCRUB_RATE=1MiB", "BERTH_SCRUB_WINDOW=01:30-05:00",
		"BERTH_RETENTION_INTERVAL=12h", "BERTH_RETENTION_WINDOW=02:00-04:00", "BERTH_RETENTION_LIMIT=500", "BERTH_SCRUB_REPLICA=https://mirror.example.com", "BERTH_SCRUB_REPLICA_USER=me", "BERTH_SCRUB_REPLICA_PASSWORD=RP",
		"BERTH_LOG_LEVEL=warn", "BERTH_LOG_FORMAT=json", "BERTH_LOG_ACCESS=false",
		"BERTH_METRICS_LISTEN=127.0.0.1:9000", "BERTH_METRICS_TOKEN=abc", "BERTH_METRICS_PROFILES=true",
		"BERTH_DATABASE=postgres://berth:s3cret@db.example.com/berth", "BERTH_DATABASE_POOL_CONNECTIONS=7", "BERTH_DATABASE_POOL_TIMEOUT=3s",
		"BERTH_STORAGE_S3_BUCKET=registry", "BERTH_STORAGE_S3_ENDPOINT=http://s3.example.com:9000", "BERTH_STORAGE_S3_REGION=garage",
		"BERTH_STORAGE_S3_PREFIX=berth/", "BERTH_STORAGE_S3_PATH_STYLE=off", "BERTH_STORAGE_S3_ACCESS_KEY_ID=AK",
		"BERTH_STORAGE_S3_SECRET_ACCESS_KEY=SK", "BERTH_STORAGE_S3_SESSION_TOKEN=ST", "BERTH_STORAGE_S3_CREDENTIALS_FILE=/etc/aws",
		"BERTH_STORAGE_S3_PROFILE=ci", "BERTH_STORAGE_S3_CA_FILE=/etc/ca.pem", "BERTH_STORAGE_S3_PART_SIZE=16MiB", "BERTH_STORAGE_S3_STORAGE_CLASS=STANDARD_IA",
		"BERTH_STORAGE_S3_ENCRYPTION=kms", "BERTH_STORAGE_S3_KMS_KEY=k", "BERTH_STORAGE_S3_REDIRECT=https://s3.public.example.com",
		"BERTH_STORAGE_S3_REDIRECT_EXCEPT=10.0.0.0/8", "BERTH_STORAGE_S3_REDIRECT_EXPIRE=5m", "BERTH_READ_ONLY=true",
		"BERTH_AUTH_ENABLED=true", "BERTH_AUTH_SERVICE=hub", "BERTH_AUTH_CLIENT_CERTIFICATES=true", "BERTH_AUTH_TOKEN_LIFETIME=10m", "BERTH_AUTH_KEY_LIFETIME=7d", "BERTH_AUTH_SYNC_INTERVAL=1h", "BERTH_AUTH_AUDIT_RETENTION=0s",
		"BERTH_AUTH_AUDIT_FORWARD_SYSLOG=tls://logs.example.com:6514", "BERTH_AUTH_AUDIT_FORWARD_SYSLOG_FACILITY=10", "BERTH_AUTH_AUDIT_FORWARD_SYSLOG_CA_FILE=/etc/logs.pem",
		"BERTH_AUTH_AUDIT_FORWARD_SYSLOG_CERTIFICATE=/etc/berth.crt", "BERTH_AUTH_AUDIT_FORWARD_SYSLOG_KEY=/etc/berth.key", "BERTH_AUTH_AUDIT_FORWARD_FILE=/var/log/audit",
		"BERTH_AUTH_HTPASSWD=/etc/htpasswd", "BERTH_AUTH_LDAP_URL=ldaps://ldap.example.com", "BERTH_AUTH_LDAP_START_TLS=off", "BERTH_AUTH_LDAP_CA_FILE=/etc/ldap.pem",
		"BERTH_AUTH_LDAP_BIND_DN=cn=berth", "BERTH_AUTH_LDAP_BIND_PASSWORD=LP", "BERTH_AUTH_LDAP_USER_DN=uid={{name}}", "BERTH_AUTH_LDAP_USER_BASE=ou=p",
		"BERTH_AUTH_LDAP_USER_FILTER=(cn={{name}})", "BERTH_AUTH_LDAP_NAME_ATTRIBUTE=a", "BERTH_AUTH_LDAP_MAIL_ATTRIBUTE=b", "BERTH_AUTH_LDAP_DISPLAY_NAME_ATTRIBUTE=c",
		"BERTH_AUTH_LDAP_ID_ATTRIBUTE=d", "BERTH_AUTH_LDAP_GROUP_BASE=ou=g", "BERTH_AUTH_LDAP_GROUP_FILTER=(memberUid={{name}})", "BERTH_AUTH_LDAP_GROUP_ATTRIBUTE=dn",
		"BERTH_AUTH_LDAP_NESTED_GROUPS=true", "BERTH_AUTH_LDAP_CONNECTIONS=2", "BERTH_AUTH_LDAP_DIAL_TIMEOUT=1s", "BERTH_AUTH_LDAP_BIND_TIMEOUT=2s",
		"BERTH_AUTH_LDAP_SEARCH_TIMEOUT=3s", "BERTH_AUTH_LDAP_SIGN_IN_LIFETIME=9d", "BERTH_AUTH_ISSUERS=[{issuer: https://ci.example.com, ca_file: /etc/ci.pem}]",
		"BERTH_TLS_CERTIFICATE=/etc/a.crt", "BERTH_TLS_KEY=/etc/a.key", "BERTH_TLS_MORE=[{certificate: /etc/b.crt, key: /etc/b.key}]",
		"BERTH_TLS_CLIENT_CA=/etc/clients.crt", "BERTH_TLS_CLIENT_CERTIFICATE=required", "BERTH_TLS_REDIRECT_LISTEN=:80",
		"BERTH_TLS_ACME_HOSTS=a.example.com, B.Example.COM", "BERTH_TLS_ACME_DIRECTORY=https://acme.example.com/directory",
		"BERTH_TLS_ACME_ACCEPT_TERMS=true", "BERTH_TLS_ACME_EMAIL=me@example.com", "BERTH_TLS_ACME_CA_FILE=/etc/acme.crt",
		"BERTH_TLS_ACME_EAB_KEY_ID=kid", "BERTH_TLS_ACME_EAB_KEY=c2VjcmV0",
		"BERTH_AUTH_OIDC=[{name: corp, label: Corp, issuer: https://accounts.example.com, client_id: berth, client_secret: OS, ca_file: /etc/corp.pem," +
			"scopes: [openid, groups], name_claim: email, name_domain: corp.example, groups_claim: groups, device_client_id: berth-cli, sign_in_lifetime: 7d}]",
	}
	fromFile, fromEnv := load(t, Places{File: writeConfig(t, text)}), load(t, Places{Env: environ})
	for _, s := range fromFile.settings() {
		if !strings.HasPrefix(fromFile.sources[s.key], "berth.yaml:") || fromEnv.sources[s.key] != s.env() {
			t.Errorf("%s is from %q and %q", s.key, fromFile.sources[s.key], fromEnv.sources[s.key])
		}
	}
	fromFile.sources, fromEnv.sources = nil, nil
	if !reflect.DeepEqual(fromFile, fromEnv) {
		t.Errorf("the file gives        %+v\nthe environment gives %+v", fromFile, fromEnv)
	}
	untouched := Default()
	for i, s := range untouched.settings() {
		if got := fromFile.settings()[i].value.Interface(); reflect.DeepEqual(got, s.value.Interface()) {
			t.Errorf("%s still has its default %v", s.key, got)
		}
	}
}

func TestProblemsOfAFile(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"not YAML", "listen: \":5000\ndata: x\n", "berth.yaml:3: found unexpected end of stream while scanning a quoted scalar that begins in line 1"},
		{"two documents", "data: x\n---\ndata: y\n", "berth.yaml:2: a second document begins here: a configuration is one document"},
		{"not a mapping", "- data\n", `berth.yaml:1: this must be a section of settings, "name: value"`},
		{"unknown", "sparce: all\n", "berth.yaml:1: sparce: there is no such setting; did you mean sparse?"},
		{"unlike any", "database_connection_pool: 3\n", "berth.yaml:1: database_connection_pool: there is no such setting"},
		{"unknown in a section", "limits:\n  # largest\n  manifst: 5MiB\n", "berth.yaml:3: limits.manifst: there is no such setting; did you mean limits.manifest?"},
		{"outside its section", "level: debug\n", "berth.yaml:1: level: there is no such setting; did you mean log.level?"},
		{"unknown in a rule", "repositories:\n  - match: a\n    sparse: all\n    delete: false\n", "berth.yaml:4: repositories[0].delete: there is no such setting"},
		{"merge key", "x: &x {data: y}\n", "berth.yaml:1: x: there is no such setting"},
		{"twice", "data: x\nlog: {}\ndata: y\n", "berth.yaml:3: data: this is set twice, first in line 1"},
		{"no value", "data:\n", `berth.yaml:1: data: there is no value: remove the key, or write "" for an empty one`},
		{"section for a value", "data: {x: y}\n", "berth.yaml:1: data: this must be one value, not a list or a section"},
		{"value for a section", "log: debug\n", `berth.yaml:1: log: this must be a section of settings, "name: value"`},
		{"value for a list", "trusted_proxies: 10.0.0.0/8\n", "berth.yaml:1: trusted_proxies: this must be a list"},
		{"bad item", "trusted_proxies:\n  - 10.0.0.0/8\n  - 10.0.0.0/33\n", `berth.yaml:3: trusted_proxies[1]: "10.0.0.0/33" is neither an address nor a network: write 10.0.0.0/8, 10.1.2.3, fd00::/8 or the like`},
		{"rule without a pattern", "repositories:\n  - sparse: all\n", `berth.yaml:2: repositories[0]: "match" is missing`},
		{"pattern of no name", "repositories: [{match: Team/*, sparse: all}]\n", `berth.yaml:1: repositories[0].match: "Team/*" can match no name: a name is lower-case letters, digits, '.', '_' and '-', its parts separated by one '/'`},
		{"pattern that is none", "repositories: [{match: 'a[b', sparse: all}]\n", `berth.yaml:1: repositories[0].match: "a[b" is not a pattern: a bracket or brace is not closed`},
		{"boolean", "delete: no\n", `berth.yaml:1: delete: "no" must be true or false`},
		{"number", "limits: {uploads: many}\n", `berth.yaml:1: limits.uploads: "many" must be a whole number`},
		{"choice", "log: {format: xml}\n", `berth.yaml:1: log.format: "xml" must be text or json`},
		{"size", "limits: {header: 10Gi}\n", `berth.yaml:1: limits.header: "10Gi" is not a size: write a number of bytes, or one with a unit, such as 512KiB, 4MiB or 10GB`},
		{"duration", "timeouts: {idle: 60}\n", `berth.yaml:1: timeouts.idle: "60" is not a duration: write a number with its unit, such as 30s, 5m, 24h or 7d`},
		{"address", "listen: 5000\n", `berth.yaml:1: listen: "5000" is not an address: write HOST:PORT such as 127.0.0.1:5000 or [::1]:5000, :5000 for all addresses of this machine, or unix:PATH`},
		{"url with a path", "external_url: https://example.com/registry\n", `berth.yaml:1: external_url: "https://example.com/registry" must end after the host: clients look for a registry at the path /v2/ only`},
		{"too small", "limits:\n  manifest: 1MiB\n", "berth.yaml:2: limits.manifest: 1MiB is too small: clients count on 4MiB"},
		{"without effect", "metrics: {profiles: true}\n", "berth.yaml:1: metrics.profiles: this has no effect without metrics.listen"},
		{"all at once", "lissen: a\nlimits: {uploads: x}\nsparse: some\n", "berth.yaml:1: lissen: there is no such setting; did you mean listen?\n" +
			"berth.yaml:2: limits.uploads: \"x\" must be a whole number\nberth.yaml:3: sparse: \"some\" must be none, index or all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(Places{File: writeConfig(t, tt.text)})
			if _, ok := errors.AsType[*ConfigError](err); !ok || err.Error() != tt.want {
				t.Errorf("the error is\n%v\nwant\n%s", err, tt.want)
			}
		})
	}
}

func TestEmptySectionsAndListsAreDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "log:\n  # level: debug\ntrusted_proxies:\n  # - 10.0.0.0/8\nrepositories:\n"} {
		c := load(t, Places{File: writeConfig(t, text)})
		c.sources = nil
		if !reflect.DeepEqual(c, Default()) {
			t.Errorf("%q gives %+v", text, c)
		}
	}
}

func TestAliasesAndAnchors(t *testing.T) {
	c := load(t, Places{File: writeConfig(t, "timeouts:\n  idle: &t 90s\n  header: *t\n")})
	if c.Timeouts.Header != c.Timeouts.Idle || c.Timeouts.Idle.String() != "1m30s" {
		t.Errorf("timeouts are %+v", c.Timeouts)
	}
	// A document that contains itself must end.
	if _, err := Load(Places{File: writeConfig(t, "repositories: &r\n  - match: *r\n    sparse: all\n")}); err == nil {
		t.Error("a list as a pattern is accepted")
	}
}

func TestProblemsOfTheEnvironment(t *testing.T) {
	for _, tt := range []struct{ entry, want string }{
		{"BERTH_LISTN=x", "BERTH_LISTN: there is no such setting; did you mean BERTH_LISTEN?"},
		{"BERTH_LEVEL=debug", "BERTH_LEVEL: there is no such setting; did you mean BERTH_LOG_LEVEL?"},
		{"BERTH_LIMITS=x", "BERTH_LIMITS: there is no such setting"},
		{"BERTH_PORT=5000", "BERTH_PORT: there is no such setting"},
		{"BERTH_DELETE=1", `BERTH_DELETE: "1" must be true or false`},
		{"BERTH_TRUSTED_PROXIES=10.0.0.0/8,x", `BERTH_TRUSTED_PROXIES: "x" is neither an address nor a network: write 10.0.0.0/8, 10.1.2.3, fd00::/8 or the like`},
		{"BERTH_REPOSITORIES=[{match: a}]", `BERTH_REPOSITORIES: repositories[0]: "sparse" is missing`},
		{"BERTH_REPOSITORIES=[", "BERTH_REPOSITORIES: did not find expected node content while parsing a flow node"},
		{"BERTH_TIMEOUTS_IDLE=1ms", "BERTH_TIMEOUTS_IDLE: 1ms is too short: it must be 1s at least"},
	} {
		_, err := Load(Places{Env: []string{tt.entry}})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s gives\n%v\nwant\n%s", tt.entry, err, tt.want)
		}
	}
	if _, err := Load(Places{Flags: map[string]string{"log.level": "loud"}}); err == nil || err.Error() != `--log-level: "loud" must be debug, info, warn or error` {
		t.Errorf("a bad flag gives %v", err)
	}
}

// Kubernetes sets these in each container beside a Service called berth, berth-web or berth-port.
func TestServiceLinksOfKubernetesAreNoSettings(t *testing.T) {
	load(t, Places{Env: []string{
		"BERTH_SERVICE_HOST=10.0.0.1", "BERTH_SERVICE_PORT=5000", "BERTH_SERVICE_PORT_HTTP=5000", "BERTH_PORT=tcp://10.0.0.1:5000",
		"BERTH_PORT_5000_TCP=tcp://10.0.0.1:5000", "BERTH_PORT_5000_TCP_PROTO=tcp", "BERTH_PORT_5000_TCP_PORT=5000", "BERTH_PORT_5000_TCP_ADDR=10.0.0.1",
		"BERTH_WEB_SERVICE_HOST=10.0.0.1", "BERTH_WEB_PORT=udp://10.0.0.1:5000", "BERTH_WEB_PORT_80_UDP_ADDR=10.0.0.1",
	}})
}

func TestPrintReadsBackTheSame(t *testing.T) {
	file := writeConfig(t, `
listen: ":0"
insecure_open: true
data: "odd: 'name' # with \"marks\"\t"
trusted_proxies: [10.0.0.0/8, "::1"]
repositories:
  - {match: "**", sparse: none}
  - {match: "a/{b,c}/*", sparse: all}
external_url: https://[::1]:5000
tls: {certificate: c, key: k, more: [{certificate: "d:", key: e}], acme: {hosts: [a.example.com], accept_terms: true}}
disk_reserve: 0
rate_limits: {anonymous: {pulls: 100/6h}, accounts: {requests: 50/s}, exempt_networks: ["::1"], exempt_accounts: ["a"]}
timeouts: {stop: 0s, idle: 90m}
storage: {s3: {bucket: b, region: r, path_style: on, redirect: off, redirect_except: ["::1"]}}
auth: {enabled: true, issuers: [{issuer: "https://ci.example.com", jwks_file: /etc/keys}],
  oidc: [{name: a, issuer: "https://accounts.example.com", client_id: berth}, {name: b, issuer: "https://b.example", client_id: c, scopes: [openid]}]}
`)
	c := load(t, Places{File: file, Env: []string{"BERTH_SPARSE=none"}})
	var out bytes.Buffer
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("printed.yaml", out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again := load(t, Places{File: "printed.yaml"})
	for _, want := range []string{"sparse: none # BERTH_SPARSE\n", "listen: :0 # berth.yaml:2\n", "delete: true # default\n", "repositories: # berth.yaml:7\n", "certificate: 'd:'\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	for _, s := range again.settings() {
		if !strings.HasPrefix(again.sources[s.key], "printed.yaml:") {
			t.Errorf("%s is not printed", s.key)
		}
	}
	c.sources, again.sources = nil, nil
	if !reflect.DeepEqual(c, again) {
		t.Errorf("printed and read: %+v\nwant %+v\n%s", again, c, out.String())
	}
}

func TestStorageSettings(t *testing.T) {
	for text, want := range map[string]string{
		"database: mysql://host/name":                                "database: this is not a URL of PostgreSQL",
		"storage: {s3: {region: r}}":                                 "storage.s3.region: this has no effect without storage.s3.bucket",
		"storage: {s3: {bucket: b}}":                                 "storage.s3.region: a region is needed",
		"storage: {s3: {bucket: b, region: r, access_key_id: a}}":    "must both be set",
		"storage: {s3: {bucket: b, region: r, kms_key: a}}":          "unless encryption is kms",
		"storage: {s3: {bucket: b, region: r, prefix: /a}}":          "must not begin with a slash",
		"storage: {s3: {bucket: b, region: r, redirect: maybe}}":     `"maybe" must be auto, on, off, or the URL`,
		"storage: {s3: {bucket: b, region: r, redirect_expire: 1s}}": "between 1m and 7d",
		"storage: {s3: {bucket: b, endpoint: 'https://host/b'}}":     "must end after the host",
		"storage: {s3: {bucket: b, endpoint: 'https://key@host'}}":   "no place here",
		"storage: {s3: {bucket: b, region: r, part_size: 1MiB}}":     "between 5MiB and 5GiB",
		"database_pool: {connections: 1}":                            "must be at least 2",
	} {
		if _, err := Load(Places{File: writeConfig(t, text)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %q", text, err, want)
		}
	}
	for text, want := range map[Endpoint]bool{
		"https://s3.eu-central-1.amazonaws.com": true, "https://storage.googleapis.com": true, "https://203.0.113.7:9000": true,
		"http://s3.example.com": false, "https://minio": false, "https://minio:9000": false, "https://127.0.0.1": false, "https://10.1.2.3": false,
		"https://s3.local": false, "https://garage.storage.svc.cluster.local": false, "https://[fd00::1]": false, "": false,
	} {
		if got := text.IsPublic(); got != want {
			t.Errorf("%q is public: %v", text, got)
		}
	}
	if c := load(t, Places{File: writeConfig(t, "{database: 'postgresql://h/n', storage: {s3: {bucket: b, region: r}}, data: ''}")}); !c.Stateless() {
		t.Error("a node without state has some")
	}
}

// The struct is the manual, so each field has to say what it is.
func TestEverySettingIsDescribed(t *testing.T) {
	docs := settingDocs()
	c, names := Default(), make(map[string]string)
	for _, s := range c.settings() {
		if len(docs[s.owner.Name()+"."+s.field]) < 10 {
			t.Errorf("%s.%s has no comment", s.owner.Name(), s.field)
		}
		if other, taken := names[s.env()]; taken {
			t.Errorf("%s and %s share %s", s.key, other, s.env())
		}
		names[s.env()] = s.key
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		if f := reflect.TypeFor[Config]().Field(i); f.IsExported() && docs["Config."+f.Name] == "" {
			t.Errorf("Config.%s has no comment", f.Name)
		}
	}
	if strings.Contains(docs["Config"], "\t") || !strings.HasPrefix(docs["Config"], "Config is everything") {
		t.Errorf("the beginning of the manual reads %q", docs["Config"])
	}
}

func TestSparseFor(t *testing.T) {
	c := load(t, Places{Env: []string{
		"BERTH_SPARSE=index",
		"BERTH_REPOSITORIES=[{match: mirror/strict, sparse: none}, {match: mirror/**, sparse: all}, {match: '*/tmp', sparse: none}, {match: 'a{b,c}', sparse: all}]",
	}})
	for name, want := range map[oci.Repository]Sparse{
		"mirror/strict": SparseNone, "mirror/strict/er": SparseAll, "mirror": SparseAll, "mirror/a": SparseAll, "mirror/a/b/c": SparseAll,
		"mirrors/a": SparseIndex, "x/tmp": SparseNone, "x/y/tmp": SparseIndex, "ab": SparseAll, "ad": SparseIndex,
	} {
		if got := c.SparseFor(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if n := testing.AllocsPerRun(100, func() { c.SparseFor("team/project/app") }); n != 0 {
		t.Errorf("SparseFor allocates %v times", n)
	}
}
