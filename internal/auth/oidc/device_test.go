package oidc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// The command line asks the real provider, and a person with a browser agrees.
func TestDeviceLogin(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	provider := provide(t, s, false, newSigner("a"))
	login := s.use(t, provider.Issuer, nil)
	issuer := must(NewIssuer(Options{Issuer: provider.Issuer})) // the command line's own
	shown := 0
	raw, err := DeviceLogin(t.Context(), issuer, device, nil, func(code, address, complete string) {
		shown++
		if code == "" || !strings.HasPrefix(complete, address) || !strings.HasPrefix(address, provider.Issuer) {
			t.Errorf("shown: %s at %s, %s", code, address, complete)
		}
		b := newBrowser(t)
		p := b.submit(b.open(address), url.Values{"user_code": {code}}) // the form for the code
		p = b.submit(p, nil)                                            // is it really your device?
		if p = b.signIn(p, "u-1"); !strings.Contains(p.body, "Success") {
			t.Errorf("at %s:\n%s", p.url, p.body)
		}
	})
	if err != nil || shown != 1 {
		t.Fatalf("shown %d times: %v", shown, err)
	}
	person, token, err := login.FromDevice(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	if person.Name != "alice" || person.Subject != "u-1" || token.ID == "" {
		t.Errorf("%+v, %+v", person, token)
	}
	_, again, err := login.FromDevice(t.Context(), raw)
	if err != nil || again.ID != token.ID {
		t.Errorf("the same token is another one: %v", err)
	}
	login.opt.Issuer.now = func() time.Time { return time.Now().Add(deviceTime + skew + 2*time.Second) }
	_, _, err = login.FromDevice(t.Context(), raw)
	wantError(t, err, ErrToken, "old: sign in again")
	login.opt.Issuer.now = time.Now
	// A token for the command line is none for the pages, and no device, no tokens.
	other := s.use(t, provider.Issuer, func(o *LoginOptions) { o.DeviceClientID = "berth" })
	_, _, err = other.FromDevice(t.Context(), raw)
	wantError(t, err, ErrToken, "for the audience")
	other = s.use(t, provider.Issuer, func(o *LoginOptions) { o.DeviceClientID = "" })
	_, _, err = other.FromDevice(t.Context(), raw)
	wantError(t, err, ErrToken, "no device_client_id")

	_, err = DeviceLogin(t.Context(), issuer, "nobody", nil, nil)
	wantError(t, err, ErrUnavailable, "client_id")
}

func TestDeviceLoginRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	provider := provide(t, s, false, newSigner("a"))
	issuer := must(NewIssuer(Options{Issuer: provider.Issuer}))
	_, err := DeviceLogin(t.Context(), issuer, device, nil, func(code, address, _ string) {
		b := newBrowser(t)
		p := b.submit(b.open(address), url.Values{"user_code": {code}})
		b.submit(p, url.Values{"abort": {"yes"}})
	})
	wantError(t, err, ErrToken, "refused at the issuer")
	ctx, cancel := context.WithCancel(t.Context())
	_, err = DeviceLogin(ctx, issuer, device, nil, func(string, string, string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, expected that it was cancelled", err)
	}
}

// What the token endpoint answers, one after the other.
func TestDevicePolling(t *testing.T) {
	t.Parallel()
	const tokens = `{"access_token":"a","token_type":"Bearer","id_token":"the.id.token"}`
	for _, test := range []struct {
		name    string
		begin   string
		answers []string // "" breaks the connection off
		kind    error
		reason  string
	}{
		{"slow down", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":600,"interval":1}`, []string{`{"error":"authorization_pending"}`, `{"error":"slow_down"}`, tokens}, nil, ""},
		{"no answer", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":600,"interval":1}`, []string{"", tokens}, nil, ""},
		{"expired", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":600,"interval":1}`, []string{`{"error":"expired_token"}`}, ErrToken, "too long"},
		{"nobody came", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":1,"interval":60}`, nil, ErrToken, "in time"},
		{"no ID token", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":600,"interval":1}`, []string{`{"access_token":"a","token_type":"Bearer"}`}, ErrUnavailable, "no ID token"},
		{"no token", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":600,"interval":1}`, []string{`{}`}, ErrUnavailable, "cannot be asked"},
		{"null as token", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":600,"interval":1}`, []string{`null`}, ErrUnavailable, "cannot be asked"},
		{"negative interval", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":1,"interval":-5}`, nil, ErrToken, "in time"},
		{"huge interval", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":1,"interval":9223372036854775807}`, nil, ErrToken, "in time"},
		{"huge expiry", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example","expires_in":9223372036854775807,"interval":1}`, []string{tokens}, nil, ""},
		{"no expiry", `{"device_code":"d","user_code":"u","verification_uri":"https://a.example"}`, nil, ErrUnavailable, "nonsense"},
		{"no address", `{"device_code":"d","user_code":"u","expires_in":1}`, nil, ErrUnavailable, "nonsense"},
		{"an address that is none", `{"device_code":"d","user_code":"u","verification_uri":"javascript:alert(1)","expires_in":1}`, nil, ErrUnavailable, "nonsense"},
		{"null", `null`, nil, ErrUnavailable, ""},
		{"a page", `<html>`, nil, ErrUnavailable, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.discovery["device_authorization_endpoint"] = w.Server.URL + "/device"
			w.discovery["token_endpoint"] = w.Server.URL + "/token"
			w.on("/device", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, test.begin) })
			var mu sync.Mutex
			answers := test.answers
			w.on("/token", func(rw http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if r.FormValue("device_code") != "d" || r.FormValue("grant_type") != "urn:ietf:params:oauth:grant-type:device_code" || len(answers) == 0 {
					t.Errorf("asked for %v, with %d answers left", r.Form, len(answers))
					http.Error(rw, "no", http.StatusBadRequest)
					return
				}
				answer := answers[0]
				answers = answers[1:]
				switch {
				case answer == "":
					panic(http.ErrAbortHandler)
				case strings.Contains(answer, "error"):
					rw.WriteHeader(http.StatusBadRequest)
				}
				io.WriteString(rw, answer)
			})
			raw, err := DeviceLogin(t.Context(), w.Issuer, "cli", nil, func(string, string, string) {})
			if test.kind != nil {
				wantError(t, err, test.kind, test.reason)
			} else if err != nil || raw != "the.id.token" {
				t.Errorf("%q, %v", raw, err)
			}
			if mu.Lock(); len(answers) != 0 {
				t.Errorf("%d answers were not asked for", len(answers))
			}
			mu.Unlock()
		})
	}
}
