package service

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"testing"
	"time"
)

// Browser follows redirects, keeps cookies and submits forms, as a person does at an OIDCProvider.
type Browser struct {
	t testing.TB
	*http.Client
}

// BrowserPage is where a Browser is.
type BrowserPage struct {
	URL    *url.URL
	Status int
	Header http.Header
	Body   string
}

// NewBrowser returns a browser without cookies.
func NewBrowser(t testing.TB) *Browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Browser{t, &http.Client{Jar: jar, Timeout: time.Minute}}
}

// Open goes to an address.
func (b *Browser) Open(address string) *BrowserPage {
	b.t.Helper()
	return b.got(b.Get(address))
}

func (b *Browser) got(resp *http.Response, err error) *BrowserPage {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return &BrowserPage{resp.Request.URL, resp.StatusCode, resp.Header, string(body)}
}

// Submit sends the form of a page, with what is typed into it.
func (b *Browser) Submit(p *BrowserPage, typed url.Values) *BrowserPage {
	b.t.Helper()
	form := regexp.MustCompile(`<form[^>]* action="([^"]*)"`).FindStringSubmatch(p.Body)
	if form == nil {
		b.t.Fatalf("%s (%d) has no form:\n%s", p.URL, p.Status, p.Body)
	}
	values := url.Values{}
	for _, in := range regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)"`).FindAllStringSubmatch(p.Body, -1) {
		values.Set(in[1], html.UnescapeString(in[2]))
	}
	for k, v := range typed {
		values[k] = v
	}
	to, err := p.URL.Parse(html.UnescapeString(form[1]))
	if err != nil {
		b.t.Fatal(err)
	}
	return b.got(b.PostForm(to.String(), values))
}

// SignIn signs in on a provider's page, and agrees to what it asks then.
func (b *Browser) SignIn(p *BrowserPage, account string) *BrowserPage {
	b.t.Helper()
	return b.Submit(b.Submit(p, url.Values{"login": {account}, "password": {"any"}}), nil)
}

// EnterCode signs in for a device, which shows a code and an address.
func (b *Browser) EnterCode(address, code, account string) *BrowserPage {
	b.t.Helper()
	p := b.Submit(b.Open(address), url.Values{"user_code": {code}})
	return b.SignIn(b.Submit(p, nil), account) // after: is it really your device?
}
