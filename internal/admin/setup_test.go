package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/audit"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

// offer returns the one-time secret of a node.
func (w *world) offer() string {
	w.Helper()
	token, err := w.h.OfferSetup(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return token
}

func (w *world) setUp(status int, token string) {
	w.Helper()
	w.want(status, who{}, "POST", "setup", fmt.Sprintf(`{"token":%q,"name":"root","password":%q}`, token, password), nil)
}

func TestSetup(t *testing.T) {
	w := newWorld(t)
	w.setUp(403, "")
	token := w.offer()
	if len(token) < 26 {
		t.Fatalf("the secret is %q", token)
	}
	w.setUp(403, "")
	w.setUp(403, token+"A")
	w.setUp(403, token[1:])
	w.want(400, who{}, "POST", "setup", fmt.Sprintf(`{"token":%q,"name":"root"}`, token), nil)
	w.want(400, who{}, "POST", "setup", fmt.Sprintf(`{"token":%q,"name":"Root","password":%q}`, token, password), nil)
	w.setUp(201, token)
	w.want(200, who{"root", password}, "GET", "users", "", nil)
	w.setUp(403, token)
	if again := w.offer(); again != "" {
		t.Errorf("there is an administrator, and another one could be made with %q", again)
	}
	w.setUp(403, setupDone)
	var p Page[audit.Entry]
	if w.want(200, who{"root", password}, "GET", "audit?action=setup", "", &p); len(p.Items) != 1 || p.Items[0].Object != "setup/root" || p.Items[0].Actor != "anonymous@127.0.0.1" {
		t.Errorf("the audit log has %+v", p.Items)
	}
}

// The secret is for a day, and a restart makes it that again.
func TestSetupExpires(t *testing.T) {
	w := newWorld(t)
	token := w.offer()
	w.late.Store(int64(23 * time.Hour))
	if again := w.offer(); again != token {
		t.Errorf("%q became %q while it could be used", token, again)
	}
	w.late.Store(int64(46 * time.Hour))
	if _, until, err := w.h.setupToken(t.Context()); err != nil || !until.After(w.h.opts.Now()) {
		t.Fatalf("it was not made longer: %v, %v", until, err)
	}
	w.late.Store(int64(48 * time.Hour))
	w.setUp(403, token)
	next := w.offer()
	if next == "" || next == token {
		t.Errorf("%q follows %q", next, token)
	}
	w.setUp(403, token)
	w.setUp(201, next)
}

// An administrator who came in another way ends it, also for a secret that was offered before.
func TestSetupEndsWithAdministrator(t *testing.T) {
	w := newWorld(t)
	token := w.offer()
	w.user("bob", nil)
	if again := w.offer(); again != token {
		t.Errorf("an account without rights changes %q to %q", token, again)
	}
	w.user("alice", func(a *meta.Account) { a.Admin = true })
	w.setUp(403, token)
	if again := w.offer(); again != "" {
		t.Errorf("offered %q", again)
	}
	w.want(404, who{}, "GET", "setup/x", "", nil)
}

func TestSetupOfNodes(t *testing.T) {
	database := service.Postgres(t).URL
	a, b := newNode(t, database), newNode(t, database)
	token := a.offer()
	if other := b.offer(); other != token {
		t.Errorf("one node offers %q, another one %q", token, other)
	}
	b.setUp(201, token)
	a.setUp(403, token)
}

// The page works under its own policy, which allows what is in it and nothing else.
func TestSetupPage(t *testing.T) {
	w := newWorld(t)
	a := w.do(who{}, "GET", SetupPath, "")
	policy := a.Header.Get("Content-Security-Policy")
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("status %d, %v", a.StatusCode, a.Header)
	}
	for _, element := range []string{"script", "style"} {
		if strings.Count(string(a.body), "<"+element+">") != 1 || strings.Contains(string(a.body), "<"+element+" ") || !strings.Contains(policy, element+"-src "+sourceHash(string(a.body), element)) {
			t.Errorf("the page has not one %s, or the policy %q does not allow it", element, policy)
		}
	}
	for _, foreign := range []string{"http:", "https:", "//", "onclick", "style="} {
		if strings.Contains(string(a.body), foreign) {
			t.Errorf("the page has %q", foreign)
		}
	}
	if a := w.do(who{}, "POST", SetupPath, `{}`); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", a.StatusCode)
	}
}

// A person makes the first account in a browser, by the link in the log, which works once.
func TestSetupInBrowser(t *testing.T) {
	w := newWorld(t)
	token := w.offer()
	b := service.NewChromium(t)
	said := func(want string) {
		t.Helper()
		b.Wait(fmt.Sprintf(`document.querySelector("[role=status]").textContent.includes(%q)`, want))
	}
	fill := func(again string) {
		t.Helper()
		b.Type("[name=name]", "root")
		b.Type("[name=password]", password)
		b.Type("[name=again]", again)
		b.Click("button")
	}
	field := `document.querySelector("[name=token]").value`
	// Links that were cut off, or changed on the way.
	for link, want := range map[string]string{token[1:]: token[1:], "%": "%", "%3Cb%3E": "%3Cb%3E", "": ""} {
		b.Open(w.url + SetupPath + "#" + link)
		if got := b.Eval(field); got != want {
			t.Errorf("with the link #%s, the field has %q", link, got)
		}
		if got := b.Eval("location.href"); got != w.url+SetupPath {
			t.Errorf("the browser keeps %s", got)
		}
		if want != "" {
			fill(password)
			said("the one-time secret is wrong")
		}
	}
	b.Complaints() // that the answer was 403
	b.Open(w.url + SetupPath + "#" + token)
	fill("another password")
	said("The passwords differ.")
	if there, err := w.db.HasAccounts(t.Context()); there || err != nil {
		t.Fatalf("there is an account: %v, %v", there, err)
	}
	fill(password)
	said("docker login --username root " + strings.TrimPrefix(w.url, "http://"))
	if text := b.Text(); strings.Contains(text, token) || b.Eval(`document.forms.length`) != "0" {
		t.Errorf("the form is still there:\n%s", text)
	}
	if c := b.Complaints(); len(c) > 0 {
		t.Errorf("the browser complains:\n%s", strings.Join(c, "\n"))
	}
	w.want(200, who{"root", password}, "GET", "users", "", nil)
	// The link was used.
	b.Open(w.url + SetupPath + "#" + token)
	fill(password)
	said("was used")
}
