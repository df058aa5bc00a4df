package certificate

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/berthregistry/berth/internal/job"
	"github.com/berthregistry/berth/internal/meta"
)

// ACMEOptions say what to order, and where.
type ACMEOptions struct {
	Log *slog.Logger
	// Hosts are the names, in lower case. Each gets a certificate of its own, so that one that cannot be validated does not
	// keep the others from theirs.
	Hosts []string
	// Directory is the URL of the authority (RFC 8555 section 7.1.1), whose terms are accepted.
	Directory string
	// Roots verify the certificate of the directory; nil for those of the system.
	Roots *x509.CertPool
	// Email is told to the authority, unless it is empty.
	Email string
	// KeyID and Key bind the account to one that exists at the authority (RFC 8555 section 7.3.4), unless they are empty.
	KeyID string
	Key   []byte
	// HTTP says that HTTPChallenge is asked for what comes to port 80, so that the challenge HTTP-01 can be used beside TLS-ALPN-01.
	HTTP bool
	// ReadOnly uses what other nodes have ordered, and orders nothing.
	ReadOnly bool
	// Every is the time between two looks at what is stored; 0 stands for 10 seconds.
	Every time.Duration
}

// ACME orders certificates and renews them, and shares them with all nodes of the same database. What it needs to know lies
// there: the key of the account, certificates with their keys, the challenge that is being answered for a host, so that the authority
// may ask any node, and failures, so that nodes and restarts together respect the limits of the authority.
type ACME struct {
	store *Store
	db    *meta.DB
	jobs  *job.Runner
	opts  ACMEOptions

	// Of the goroutine that runs Run.
	issued map[string]*issued
	down   bool // the database could not be read when it was last tried
}

// issued is a certificate as it is stored.
type issued struct {
	pem  []byte           // key and chain
	cert *tls.Certificate // nil if they cannot be used
}

// NewACME returns what orders certificates for a store, which must not be in use yet, and gives it those that were ordered
// before. The runner's lease on the job "certificates" keeps nodes from ordering at the same time.
func NewACME(ctx context.Context, store *Store, db *meta.DB, jobs *job.Runner, opts ACMEOptions) (*ACME, error) {
	opts.Every = cmp.Or(opts.Every, 10*time.Second)
	a := &ACME{store: store, db: db, jobs: jobs, opts: opts, issued: make(map[string]*issued)}
	store.acme = a
	return a, a.load(ctx)
}

// Run uses what is stored and orders what is missing or due, until ctx ends.
func (a *ACME) Run(ctx context.Context) {
	ticker := time.NewTicker(a.opts.Every)
	defer ticker.Stop()
	for {
		err := a.look(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !a.down {
			a.opts.Log.Error("certificates in the database cannot be read", "error", err)
		}
		a.down = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look takes over what is stored, and orders what is due unless another node is doing so.
func (a *ACME) look(ctx context.Context) error {
	if err := a.load(ctx); err != nil {
		return err
	}
	due, err := a.due(ctx)
	if err != nil || len(due) == 0 || a.opts.ReadOnly {
		return err
	}
	if ran, err := a.jobs.Now(ctx, job.Job{Name: "certificates", Run: a.order}); err != nil || !ran {
		return err
	}
	return a.load(ctx)
}

// load takes over the certificates that are stored.
func (a *ACME) load(ctx context.Context) error {
	changed := false
	for _, host := range a.opts.Hosts {
		text, err := a.db.Setting(ctx, a.certificateName(host))
		if errors.Is(err, meta.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if old := a.issued[host]; old != nil && bytes.Equal(old.pem, text) {
			continue
		}
		cert, err := parseIssued(host, text)
		a.issued[host], changed = &issued{text, cert}, true
		if err != nil {
			a.opts.Log.Error("certificate in the database cannot be used", "host", host, "error", err)
			continue
		}
		a.opts.Log.Info("certificate taken from the database", "host", host, "not_after", cert.Leaf.NotAfter)
	}
	if changed {
		var all []*tls.Certificate
		for _, host := range a.opts.Hosts {
			if i := a.issued[host]; i != nil && i.cert != nil {
				all = append(all, i.cert)
			}
		}
		a.store.setOrdered(all)
	}
	return nil
}

// parseIssued reads a key and a chain, and sees to it that they serve the host.
func parseIssued(host string, text []byte) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(text, text)
	if err == nil {
		err = cert.Leaf.VerifyHostname(host)
	}
	if err != nil {
		return nil, err
	}
	return &cert, nil
}

// renewAfter is when a certificate is replaced: a third of its life before its end, which is a month for one of three months.
func renewAfter(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

// due lists the hosts to order certificates for now.
func (a *ACME) due(ctx context.Context) ([]string, error) {
	var hosts []string
	for _, host := range a.opts.Hosts {
		if i := a.issued[host]; i != nil && i.cert != nil && time.Now().Before(renewAfter(i.cert.Leaf)) {
			continue
		}
		f, err := a.failure(ctx, host)
		if err != nil {
			return nil, err
		}
		if time.Now().Before(f.Until) {
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts, nil
}

// failure says what came of the last attempts to get a certificate.
type failure struct {
	Count int       `json:"count"` // in a row
	Until time.Time `json:"until"` // when the next one may be made
}

func (a *ACME) failure(ctx context.Context, host string) (failure, error) {
	var f failure
	b, err := a.db.Setting(ctx, a.failureName(host))
	if errors.Is(err, meta.ErrNotFound) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	return f, err
}

// backoff is the pause after so many failures in a row: five attempts fall into the first hour, which is what Let's
// Encrypt allows, and two into each day in the end.
func backoff(failures int) time.Duration {
	return min(2*time.Minute<<min(failures-1, 10), 12*time.Hour)
}

// pause is the backoff, or longer if the authority says so.
func pause(failures int, err error) time.Duration {
	if answer, ok := errors.AsType[*acme.Error](err); ok {
		if limit, ok := acme.RateLimit(answer); ok {
			return max(backoff(failures), limit)
		}
	}
	return backoff(failures)
}

// What is stored, by name. Certificates and failures of another authority are others.

func (a *ACME) accountName() string { return "acme account " + a.opts.Directory }

func (a *ACME) certificateName(host string) string {
	return "acme certificate " + host + " " + a.opts.Directory
}

func (a *ACME) failureName(host string) string {
	return "acme failure " + host + " " + a.opts.Directory
}

func challengeName(host string) string { return "acme challenge " + host }

// accountKey returns the key of the account, which is the same on all nodes.
func (a *ACME) accountKey(ctx context.Context) (crypto.Signer, error) {
	key, text, err := newKey()
	if err != nil {
		return nil, err
	}
	stored, err := a.db.SettingOr(ctx, a.accountName(), text)
	if err != nil || bytes.Equal(stored, text) {
		return key, err
	}
	block, _ := pem.Decode(stored)
	if block == nil {
		return nil, errors.New("the key of the account that is in the database cannot be read")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	signer, ok := parsed.(crypto.Signer) // which not every kind of key is
	if err != nil || !ok {
		return nil, errors.New("the key of the account that is in the database cannot be read")
	}
	return signer, nil
}

// newKey returns a key, and its PEM.
func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	text, err := keyPEM(key)
	return key, text, err
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

func certificatePEM(chain ...[]byte) []byte {
	var b bytes.Buffer
	for _, der := range chain {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Buffer takes everything
	}
	return b.Bytes()
}

// serves tells whether a certificate is ordered for the host.
func (a *ACME) serves(host string) bool {
	for _, h := range a.opts.Hosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	return false
}
