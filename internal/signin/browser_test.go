package signin

import (
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/service"
)

// A person signs in with a real browser, which keeps to the rules of cookies, redirects and policies.
func TestChromium(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := service.NewChromium(t)
	b.Open(w.URL + Path)
	b.Type("[name=login]", "u-1")
	b.Type("[name=password]", "any")
	b.Click("form [type=submit]")
	b.Wait(`document.querySelector("[name=login]") === null && document.querySelector("form [type=submit]") !== null`) // agrees
	b.Complaints()                                                                                                     // about the provider's pages
	b.Click("form [type=submit]")
	b.Wait(`document.querySelector("#token") !== null`)
	token := b.Eval(`document.querySelector("#token").textContent`)
	if _, err := w.accounts.SignIn(t.Context(), "alice", token, here); err != nil {
		t.Errorf("%v:\n%s", err, b.Text())
	}
	if got := b.Eval(`getComputedStyle(document.querySelector("#token")).userSelect`); got != "all" {
		t.Errorf("the page has not its style: %q", got)
	}
	for _, c := range b.Complaints() {
		if strings.Contains(c, w.URL) {
			t.Errorf("the browser complains: %s", c)
		}
	}
	// The address of the page is worth nothing any more.
	b.Eval("location.reload()")
	b.Wait(`document.querySelector("#reason") !== null`)
	if text := b.Text(); strings.Contains(text, token) || !strings.Contains(text, "has begun no sign-in") {
		t.Errorf("the page came again:\n%s", text)
	}
	// Another site, at which the person is still signed in to the provider, gets no further than to a question.
	b.Open(w.provider.Issuer + "/.well-known/openid-configuration")
	b.Eval(`location.href = "` + w.URL + Path + `/corp"`)
	b.Wait(`document.querySelector("a.button") !== null`)
	if text := b.Text(); !strings.Contains(text, "Sign in with Corp & Co") {
		t.Errorf("%s", text)
	}
	before := len(w.credentials())
	b.Click("a.button")
	b.Wait(`document.querySelector("#token") !== null`)
	if after := len(w.credentials()); before != 1 || after != 2 {
		t.Errorf("%d tokens, then %d", before, after)
	}
}

// credentials returns what alice has.
func (w *world) credentials() []string {
	w.Helper()
	a, err := w.db.Account(w.Context(), "alice")
	if err != nil {
		w.Fatal(err)
	}
	all, err := w.db.Credentials(w.Context(), a.ID)
	if err != nil {
		w.Fatal(err)
	}
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return names
}
