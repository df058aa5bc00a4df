package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/auth"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
	"github.com/berthregistry/berth/internal/web"
)

// world is the API on a real database behind a real socket, and a clock that the test sets.
type world struct {
	testing.TB
	db   *meta.DB
	h    *Handler
	url  string
	log  *logBuffer
	late atomic.Int64 // by how much the clock is ahead
}

// logBuffer is a log that is written and read at once.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newNode(t, filepath.Join(t.TempDir(), "berth.db"))
}

// newNode is one of several on the same database.
func newNode(t testing.TB, database string) *world {
	t.Helper()
	db, err := meta.Open(t.Context(), database, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, db: db, log: new(logBuffer)}
	now := func() time.Time { return time.Now().Add(time.Duration(w.late.Load())) }
	log := slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := auth.New(db, auth.Options{Log: log, Service: "berth", TokenLifetime: 5 * time.Minute, KeyLifetime: 24 * time.Hour, Now: now, Certificate: certificate})
	if err != nil {
		t.Fatal(err)
	}
	server := web.NewServer(web.Options{Log: log, AccessLog: true, Idle: time.Minute})
	reg, err := registry.New(t.Context(), db, nil, registry.Options{Delete: true, Trash: true})
	if err != nil {
		t.Fatal(err)
	}
	w.h = New(Options{Auth: a, DB: db, Registry: reg, TrashKeep: time.Hour, Delete: true, Backups: "/mnt/backup", Log: log, Service: "berth", Client: server.Client, Now: now})
	s := httptest.NewServer(server.Handler(w.h.Serve))
	w.url = s.URL
	t.Cleanup(func() {
		s.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// certificateHeader has the common name of a client's certificate, in the place of a connection that has one.
const certificateHeader = "X-Test-Certificate"

func certificate(r *http.Request) *x509.Certificate {
	return &x509.Certificate{Subject: pkix.Name{CommonName: r.Header.Get(certificateHeader)}}
}

// who signs a request; the zero value is anonymous.
type who struct{ name, secret string }

const password = "a good password"

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request; headers are pairs of name and value.
func (w *world) do(by who, method, path, body string, headers ...string) answer {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if by.secret != "" {
		req.SetBasicAuth(by.name, by.secret)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.Fatal(err)
	}
	return answer{resp, b}
}

// want sends a request below Prefix and fails the test unless the answer has the status. It reads the body into out, if not nil.
func (w *world) want(status int, by who, method, path, body string, out any) answer {
	w.Helper()
	a := w.do(by, method, Prefix+path, body)
	if a.StatusCode != status {
		w.Fatalf("%s %s %s by %q: status %d, expected %d: %s", method, path, body, by.name, a.StatusCode, status, a.body)
	}
	if status >= 400 {
		w.message(a)
	}
	if out != nil {
		if err := json.Unmarshal(a.body, out); err != nil {
			w.Fatalf("%s %s: %v: %s", method, path, err, a.body)
		}
	}
	return a
}

// message returns the message of an error, which must have the form of spec.md#error-codes.
func (w *world) message(a answer) string {
	w.Helper()
	var form struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &form); err != nil || len(form.Errors) != 1 || form.Errors[0].Code == "" || form.Errors[0].Message == "" {
		w.Fatalf("no error: %s", a.body)
	}
	return form.Errors[0].Message
}

// user makes a user, without a password.
func (w *world) user(name string, change func(*meta.Account)) *meta.Account {
	w.Helper()
	a := &meta.Account{Source: meta.LocalAccounts, Created: time.Now()}
	a.Name = name
	if change != nil {
		change(a)
	}
	if err := w.db.CreateAccount(w.Context(), a); err != nil {
		w.Fatal(err)
	}
	return a
}

// person makes a user with the password.
func (w *world) person(name string, change func(*meta.Account)) who {
	w.Helper()
	hash, err := w.h.opts.Auth.HashPassword(w.Context(), password)
	if err != nil {
		w.Fatal(err)
	}
	w.user(name, func(a *meta.Account) {
		a.Password = hash
		if change != nil {
			change(a)
		}
	})
	return who{name, password}
}

// token gives an account a token, or a secret if it is a robot, that is limited as change says.
func (w *world) token(a *meta.Account, change func(*meta.Credential)) who {
	w.Helper()
	c := &meta.Credential{Kind: meta.TokenCredential, Created: time.Now()}
	if a.Robot {
		c.Kind = meta.SecretCredential
	}
	c.Name, c.Actions = "test", access.All
	if change != nil {
		change(c)
	}
	secret, hash := auth.NewSecret(c.Kind)
	if err := w.db.AddCredential(w.Context(), a.ID, c, hash, 0); err != nil {
		w.Fatal(err)
	}
	return who{a.Name, secret}
}

// organization makes an organization, with an owner if a name is given.
func (w *world) organization(name, owner string) {
	w.Helper()
	if err := w.db.CreateOrganization(w.Context(), &meta.Organization{Name: name, Creation: access.CreationPush, Created: time.Now()}); err != nil {
		w.Fatal(err)
	}
	if owner != "" {
		w.grant(name, owner, access.Owner)
	}
}

// grant gives an account a role in an organization and returns the grant's id.
func (w *world) grant(organization, account string, role access.Role) int64 {
	w.Helper()
	g := &meta.Grant{Organization: organization, Account: account, Grant: access.Grant{Role: role, Actions: role.Actions()}, Created: time.Now()}
	if err := w.db.AddGrant(w.Context(), g); err != nil {
		w.Fatal(err)
	}
	return g.ID
}

// administrator makes an administrator of the registry.
func (w *world) administrator(name string) (*meta.Account, who) {
	w.Helper()
	a := w.user(name, func(a *meta.Account) { a.Admin = true })
	return a, w.token(a, nil)
}

// robot makes a robot of an organization, or of the registry.
func (w *world) robot(organization, name string) *meta.Account {
	w.Helper()
	return w.user(robotName(organization, name), func(a *meta.Account) { a.Robot, a.Organization = true, organization })
}

// repository makes a repository that exists.
func (w *world) repository(name string) {
	w.Helper()
	r, err := oci.ParseRepository(name)
	if err != nil {
		w.Fatal(err)
	}
	body := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	parsed, err := oci.ParseManifest("application/vnd.oci.image.index.v1+json", body)
	if err != nil {
		w.Fatal(err)
	}
	sum := sha256.New()
	sum.Write(body)
	if _, err := w.db.PutManifest(w.Context(), meta.NewManifest{
		Repository: r, Digest: oci.DigestOf(oci.SHA256, sum), Parsed: parsed, Body: body, Tags: []oci.Tag{"1"}, Now: time.Now(),
	}); err != nil {
		w.Fatal(err)
	}
}

// credentialID returns the id of the newest credential of an account.
func (w *world) credentialID(a *meta.Account) string {
	w.Helper()
	all, err := w.db.Credentials(w.Context(), a.ID)
	if err != nil || len(all) == 0 {
		w.Fatal(err, len(all))
	}
	return text(all[len(all)-1].ID)
}

func text(id int64) string { return strconv.FormatInt(id, 10) }

const trustExample = `{"issuer":"https://token.actions.githubusercontent.com","audience":"registry.example.com","claims":{"repository":"octo-org/app"}}`

// trust gives a robot a trust rule and returns its id.
func (w *world) trust(a *meta.Account) string {
	w.Helper()
	r := &meta.TrustRule{Account: a.Name, Issuer: "https://token.actions.githubusercontent.com", Rule: trustExample, Created: time.Now()}
	if err := w.db.AddTrustRule(w.Context(), r); err != nil {
		w.Fatal(err)
	}
	return text(r.ID)
}
