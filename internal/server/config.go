package server

import (
	"net/netip"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/berthregistry/berth/internal/oci"
)

// Config is everything that can be set, and the manual of it: "berth config
// print" shows the comments below.
//
// Each setting has one name. In a YAML file, limits.manifest is the key
// manifest under the key limits; in the environment it is BERTH_LIMITS_MANIFEST;
// some are flags too, such as --log-level. A flag wins over the environment,
// the environment over the file, the file over the default. A name that is not
// known is an error, wherever it stands.
type Config struct {
	// Where to serve: HOST:PORT, :PORT for every address of this machine, or
	// unix:PATH for a socket that the process's user and group may connect to.
	// A host name is resolved once, at the start. HTTP/1.1 and HTTP/2 are both spoken, with
	// TLS and without (h2c).
	Listen Address `yaml:"listen"`

	// The folder that holds everything: database and blobs. It is made when it is
	// missing. Only one server at a time can use it. It is not used at all if the
	// database is PostgreSQL and blobs are in a bucket.
	Data string `yaml:"data"`

	// The PostgreSQL database of a registry that is served by several nodes, as a URL:
	//
	//	postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full
	//
	// Several hosts, separated by commas, are tried until one takes writes. Empty for an embedded database in the data
	// folder. file:PATH reads the URL from a file.
	Database Secret `yaml:"database"`

	// How PostgreSQL is used.
	DatabasePool DatabasePool `yaml:"database_pool"`

	// Where blobs are, if not in the data folder.
	Storage StorageConfig `yaml:"storage"`

	// Refuse pushes and deletes, and write nothing: for the time in which the registry
	// is moved. Other read-only servers can use the data folder at the same time.
	ReadOnly bool `yaml:"read_only"`

	// TLS at the address listen, and who may connect there. It is off if there are neither certificates nor hosts to order them for.
	TLS TLS `yaml:"tls"`

	// Allow to listen beyond this machine, although there is no access control: everyone
	// who reaches the address can pull, push and delete.
	InsecureOpen bool `yaml:"insecure_open"`

	// Who may do what.
	Auth AuthConfig `yaml:"auth"`

	// The URL at which clients reach the registry, such as https://registry.example.com.
	// If it is set, the Location headers of answers are absolute and begin with it.
	// If not, they are relative, which suits every proxy that keeps the path.
	ExternalURL URL `yaml:"external_url"`

	// Networks or addresses of proxies, such as [10.0.0.0/8, "::1"], whose Forwarded
	// and X-Forwarded-* headers are believed.
	TrustedProxies []Network `yaml:"trusted_proxies"`

	// Which manifests may be pushed although content that they name is missing here:
	// none; index, where an index may name manifests that are not here, but an image
	// needs its config and layers; or all. Foreign layers may be missing always.
	Sparse Sparse `yaml:"sparse"`

	// Settings of some repositories. The first rule whose pattern matches the name counts.
	// A pattern is a name in which * stands for anything within a part between slashes,
	// ** for any number of parts, and {a,b} for either. Example:
	//
	//	repositories:
	//	  - match: mirror/**
	//	    sparse: all
	Repositories []RepositoryRule `yaml:"repositories"`

	// Whether clients can delete tags, manifests and blobs.
	Delete bool `yaml:"delete"`

	// Space to keep free on the file system of the data folder: a size, a share, or
	// both, of which the smaller counts. Pushes are refused when less is free; pulls go on.
	DiskReserve Reserve `yaml:"disk_reserve"`

	// What one client, or all of them, can make the server hold in memory.
	Limits Limits `yaml:"limits"`

	// How often a client may ask, so that none of them starves the others. There is no limit unless one is set.
	RateLimits RateLimits `yaml:"rate_limits"`

	// How long to wait. There is no limit on a whole request, because a large layer
	// over a slow line takes hours and is welcome to.
	Timeouts Timeouts `yaml:"timeouts"`

	// Uploads that clients have begun.
	Uploads Uploads `yaml:"uploads"`

	// What was deleted and can be taken back.
	Trash Trash `yaml:"trash"`

	// Removal of blobs that no manifest needs, while the registry is in use.
	Collection Collection `yaml:"collection"`

	// Deletion of what policies of "berth retention set" let go.
	Retention Retention `yaml:"retention"`

	// The copy of the metadata in the storage.
	Journal Journal `yaml:"journal"`

	// Copies of everything that the server makes by itself.
	Backup Backup `yaml:"backup"`
	// Reading of all that is stored, to find what the storage has lost or changed.
	Scrub Scrub `yaml:"scrub"`

	// What is written to standard error.
	Log Log `yaml:"log"`

	// Measurements for Prometheus.
	Metrics MetricsConfig `yaml:"metrics"`

	sources map[string]string // by the setting's name; one that is missing has its default
}

// RepositoryRule sets what differs for the repositories that it matches.
type RepositoryRule struct {
	// The pattern of names.
	Match Pattern `yaml:"match"`
	// As the setting sparse.
	Sparse Sparse `yaml:"sparse"`
}

// DatabasePool bounds what PostgreSQL is asked for.
type DatabasePool struct {
	// How many connections this node opens at most.
	Connections int `yaml:"connections"`

	// How long a request waits for the database before it is answered with 503.
	Timeout Duration `yaml:"timeout"`
}

// StorageConfig says where blobs are.
type StorageConfig struct {
	// A bucket of an S3-compatible object storage.
	S3 S3 `yaml:"s3"`
}

// S3 is a bucket. Without keys here, credentials come from the environment (AWS_ACCESS_KEY_ID, ...), a credentials
// file, web identity, or the machine's or container's role, and are refreshed before they expire.
type S3 struct {
	// The bucket, which must exist; empty to keep blobs in the data folder.
	Bucket string `yaml:"bucket"`

	// The URL of the service; empty for that of AWS in the region.
	Endpoint Endpoint `yaml:"endpoint"`

	// The region of the bucket. Services other than AWS mostly take any, or have one name for it.
	Region string `yaml:"region"`

	// What all names in the bucket begin with, such as registry/; several registries can share a bucket.
	Prefix string `yaml:"prefix"`

	// Whether the bucket is in the path of addresses (on) or in their host (off); auto is off for AWS and on for others.
	PathStyle Switch `yaml:"path_style"`

	// The name of an access key; file:PATH reads it from a file.
	AccessKeyID Secret `yaml:"access_key_id"`

	// Its secret; file:PATH reads it from a file.
	SecretAccessKey Secret `yaml:"secret_access_key"`

	// The token that belongs to a temporary access key; file:PATH reads it from a file.
	SessionToken Secret `yaml:"session_token"`

	// A credentials file as AWS has it; empty for ~/.aws/credentials, or what AWS_SHARED_CREDENTIALS_FILE names.
	CredentialsFile string `yaml:"credentials_file"`

	// The profile in that file; empty for what AWS_PROFILE names, or default.
	Profile string `yaml:"profile"`

	// A file of certificates, in PEM, to trust beside those of the system.
	CAFile string `yaml:"ca_file"`

	// The size of every part of an upload but the last, for services that want parts of one size; 0 lets parts
	// grow with the upload. An object has 10,000 parts at most.
	PartSize Size `yaml:"part_size"`

	// The storage class of new objects, such as STANDARD_IA; empty for the bucket's.
	StorageClass string `yaml:"storage_class"`

	// How the service encrypts new objects: bucket as the bucket says, s3 with keys of the service (SSE-S3), kms
	// with a key of its key management (SSE-KMS).
	Encryption Encryption `yaml:"encryption"`

	// The key for encryption with kms; empty for the default one.
	KMSKey string `yaml:"kms_key"`

	// Whether clients are sent to the bucket for the bytes of a blob, by an address that is signed for them, instead
	// of getting them through this node: off, on, auto, or the URL at which clients reach the service, if it is another one
	// than endpoint. auto is on if endpoint is an https URL of a public host.
	Redirect Redirect `yaml:"redirect"`

	// Networks or addresses of clients that do not reach the bucket, and are not sent there.
	RedirectExcept []Network `yaml:"redirect_except"`

	// How long a client has to begin with such a download.
	RedirectExpire Duration `yaml:"redirect_expire"`
}

// TLS is about the server's own TLS: versions 1.2 and 1.3. Files are read again when they change; one that cannot be used
// leaves what was read before in use.
type TLS struct {
	// A file with the certificate of this server and its chain, in PEM. It is used for names that are in no other certificate, too.
	Certificate string `yaml:"certificate"`

	// The file with its key, in PEM.
	Key string `yaml:"key"`

	// More certificates, chosen by the name that a client asks for. Example:
	//
	//	more:
	//	  - certificate: /etc/berth/other.crt
	//	    key: /etc/berth/other.key
	More []CertificateFiles `yaml:"more"`

	// A file of certificates, in PEM, by which clients' certificates are verified; empty to ask clients for none.
	ClientCA string `yaml:"client_ca"`

	// Whether each client must have such a certificate: optional or required. Health checks need one then, too, but not those
	// at the address metrics.listen.
	ClientCertificate Presence `yaml:"client_certificate"`

	// A second address, without TLS, such as :80, that sends browsers and the like to external_url, or else to the port of
	// the setting listen. It answers the challenge HTTP-01 of ACME, too.
	RedirectListen Address `yaml:"redirect_listen"`

	// Certificates that are ordered by ACME, from Let's Encrypt or another authority, and renewed a third of their life before
	// their end. They are kept in the database, so that all nodes share them.
	ACME ACME `yaml:"acme"`
}

// CertificateFiles is one more certificate.
type CertificateFiles struct {
	// As the setting tls.certificate.
	Certificate string `yaml:"certificate"`
	// As the setting tls.key.
	Key string `yaml:"key"`
}

// ACME says what to order, and where.
type ACME struct {
	// The names of this server, each of which gets a certificate; empty to order none. The authority must reach this server by
	// each name: at port 443 (challenge TLS-ALPN-01), or at port 80 if there is a redirect_listen (HTTP-01).
	Hosts []HostName `yaml:"hosts"`

	// The URL of the authority's directory.
	Directory DirectoryURL `yaml:"directory"`

	// Whether the terms of service of the authority are accepted, without which it issues nothing.
	AcceptTerms bool `yaml:"accept_terms"`

	// Where the authority can reach whoever runs this server.
	Email string `yaml:"email"`

	// A file of certificates, in PEM, to trust as the directory's in place of those of the system.
	CAFile string `yaml:"ca_file"`

	// The name of a key of an account at the authority, for those that want accounts made elsewhere (external account binding).
	EABKeyID string `yaml:"eab_key_id"`

	// That key, in base64 as such authorities give it; file:PATH reads it from a file.
	EABKey Secret `yaml:"eab_key"`
}

// Limits bound memory.
type Limits struct {
	// The largest manifest that is accepted. Clients count on 4MiB at least.
	Manifest Size `yaml:"manifest"`

	// The largest header of a request, all lines together. A longer one is answered with 431.
	Header Size `yaml:"header"`

	// How many blob uploads may send at the same time. One more is answered with 429 and
	// told when to try again.
	Uploads int `yaml:"uploads"`

	// How many connections may be open, a quarter of them without a complete request. For one
	// more, the connection that has waited longest is closed. If all are at work, the new
	// one waits.
	Connections int `yaml:"connections"`
}

// Timeouts are limits on waiting.
type Timeouts struct {
	// The longest pause between two pieces of a body that is received or sent; of one that is sent, up to a quarter longer.
	Idle Duration `yaml:"idle"`

	// The time that a client has to send the header of a request, and for the handshake of TLS.
	Header Duration `yaml:"header"`

	// How long a connection stays open between two requests, or up to a quarter longer.
	KeepAlive Duration `yaml:"keep_alive"`

	// How long requests may go on after SIGTERM or SIGINT. What is not done by then is cut off.
	// A second signal ends the process at once.
	Stop Duration `yaml:"stop"`
}

// Uploads are about upload sessions.
type Uploads struct {
	// Remove an upload that nothing was sent to for this long.
	Expire Duration `yaml:"expire"`
}

// Trash is about manifests that were deleted.
type Trash struct {
	// How long a deleted manifest and its blobs can be taken back with "berth undelete". Its bytes count as long. The collection
	// empties the trash, so it stays as it is if that is off. 0 for no trash: what is deleted is gone.
	Keep Duration `yaml:"keep"`
}

// Collection is about unreferenced blobs.
type Collection struct {
	// How often to look for them; 0 to look only when "berth gc run" asks for it.
	Interval Duration `yaml:"interval"`

	// Spare a blob that was pushed or mounted less than this long ago, because the
	// manifest that needs it may still be on its way.
	Grace Duration `yaml:"grace"`

	// The time of day in which to look, by this machine's clock, such as 22:00-06:00; empty for any time.
	Window TimeWindow `yaml:"window"`

	// How many deleted manifests, blobs, uploads and objects to take away in a second at most; 0 for no limit.
	Rate int `yaml:"rate"`
}

// Retention is about when policies are carried out; what they say is in the database.
type Retention struct {
	// How often to carry out the policies; 0 to do so only when "berth retention run" asks for it.
	Interval Duration `yaml:"interval"`

	// The time of day in which to do so, by this machine's clock, such as 22:00-06:00; empty for any time.
	Window TimeWindow `yaml:"window"`

	// How many tags and manifests to delete at most, each time.
	Limit int `yaml:"limit"`
}

// Scrub is about bytes that change by themselves.
type Scrub struct {
	// How long after all has been read to begin anew; 0 to read only when "berth scrub run" asks for it.
	Interval Duration `yaml:"interval"`

	// How many bytes to read in a second at most, so that pushes and pulls are not slowed down; 0 for no limit.
	Rate Size `yaml:"rate"`

	// The time of day in which to read, by this machine's clock, such as 22:00-06:00; empty for any time.
	Window TimeWindow `yaml:"window"`

	// The URL of another registry that has the same repositories, such as https://mirror.example.com; damaged blobs are
	// mended from there. Empty to leave that to the next push.
	Replica URL `yaml:"replica"`

	// Who to sign in as there; empty for nobody.
	ReplicaUser string `yaml:"replica_user"`

	// The password or token for it; file:PATH reads it from a file.
	ReplicaPassword Secret `yaml:"replica_password"`
}

// Journal is about the copy of the metadata in the storage, from which "berth rebuild" makes the database again when it is lost.
type Journal struct {
	// How long a change waits at most, where the storage can be reached: so much is lost with the database.
	Interval Duration `yaml:"interval"`
}

// Backup is about copies of everything, for "berth restore".
type Backup struct {
	// Where to keep them: a folder, best on another disk, or a bucket, as s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION; empty
	// to make none. Credentials for the bucket are those of the environment, of files that AWS's tools use, or of the machine's role.
	To BackupPlace `yaml:"to"`

	// The time from the end of one to the beginning of the next.
	Interval Duration `yaml:"interval"`

	// How many sets stay, the newest ones; 0 keeps all.
	Keep int `yaml:"keep"`
}

// Log is about the log.
type Log struct {
	// The least severe messages to write: debug, info, warn or error.
	Level LogLevel `yaml:"level"`

	// text for people or json for machines.
	Format LogFormat `yaml:"format"`

	// Whether each request is logged, at level info.
	Access bool `yaml:"access"`
}

// MetricsConfig is about the second listener.
type MetricsConfig struct {
	// Where to serve /metrics, and /livez and /readyz a second time, as for the setting
	// listen; empty to serve no metrics. Beyond this machine it needs a token or insecure_open.
	Listen Address `yaml:"listen"`

	// If set, /metrics needs the header "Authorization: Bearer TOKEN". file:PATH
	// reads the token from a file.
	Token Secret `yaml:"token"`

	// Whether profiles of the process can be taken at /debug/pprof/ beside /metrics.
	Profiles bool `yaml:"profiles"`
}

// Default returns the configuration of "berth serve" without any settings.
func Default() *Config {
	return &Config{
		Listen:       "127.0.0.1:5000",
		Data:         "./berth-data",
		DatabasePool: DatabasePool{Connections: 16, Timeout: Duration(10 * time.Second)},
		Storage: StorageConfig{S3: S3{
			PathStyle:      SwitchAuto,
			Encryption:     EncryptionBucket,
			Redirect:       Redirect{Mode: SwitchAuto},
			RedirectExpire: Duration(15 * time.Minute),
		}},
		Auth: defaultAuth(),
		TLS: TLS{
			ClientCertificate: PresenceOptional,
			ACME:              ACME{Directory: "https://acme-v02.api.letsencrypt.org/directory"},
		},
		Sparse:      SparseIndex,
		Delete:      true,
		DiskReserve: Reserve{Bytes: 1 << 30, Percent: 5},
		Limits: Limits{
			Manifest:    4 << 20,
			Header:      32 << 10,
			Uploads:     256,
			Connections: 4096,
		},
		RateLimits: defaultRateLimits(),
		Timeouts: Timeouts{
			Idle:      Duration(time.Minute),
			Header:    Duration(10 * time.Second),
			KeepAlive: Duration(2 * time.Minute),
			Stop:      Duration(30 * time.Second),
		},
		Uploads:    Uploads{Expire: Duration(24 * time.Hour)},
		Trash:      Trash{Keep: Duration(7 * 24 * time.Hour)},
		Collection: Collection{Interval: Duration(time.Hour), Grace: Duration(24 * time.Hour)},
		Retention:  Retention{Interval: Duration(24 * time.Hour), Limit: 100_000},
		Backup:     Backup{Interval: Duration(24 * time.Hour), Keep: 14},
		Journal:    Journal{Interval: Duration(2 * time.Second)},
		Scrub:      Scrub{Interval: Duration(30 * 24 * time.Hour), Rate: 20 << 20},
		Log:        Log{Level: "info", Format: "text", Access: true},
	}
}

// Stateless tells whether nothing is kept in this machine.
func (c *Config) Stateless() bool { return c.Database.IsSet() && c.Storage.S3.Bucket != "" }

// SparseFor returns what may be missing from manifests of a repository. It
// allocates nothing and may be called concurrently.
func (c *Config) SparseFor(r oci.Repository) Sparse {
	for i := range c.Repositories {
		if doublestar.MatchUnvalidated(string(c.Repositories[i].Match), string(r)) {
			return c.Repositories[i].Sparse
		}
	}
	return c.Sparse
}

// Proxies returns the networks of trusted_proxies.
func (c *Config) Proxies() []netip.Prefix {
	var out []netip.Prefix
	for _, n := range c.TrustedProxies {
		out = append(out, n.Prefix)
	}
	return out
}
