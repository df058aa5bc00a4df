package oidc

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// That one address is verified says nothing about another one.
func TestMailOfTwo(t *testing.T) {
	w := newWorld(t)
	w.discovery["authorization_endpoint"], w.discovery["token_endpoint"] = w.Server.URL+"/authorize", w.Server.URL+"/token"
	w.discovery["userinfo_endpoint"] = w.Server.URL + "/userinfo"
	login := must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", RedirectURL: "https://registry.example.com/back"}))
	var token, info map[string]any
	w.on("/token", func(rw http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(rw).Encode(map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": w.first.sign(t, w.claims(token))})
	})
	w.on("/userinfo", func(rw http.ResponseWriter, _ *http.Request) { json.NewEncoder(rw).Encode(info) })
	for _, test := range []struct {
		token, info map[string]any
		want        string
	}{
		{map[string]any{}, map[string]any{"email": "own@b.example", "email_verified": true}, "own@b.example"},
		{map[string]any{"email": "own@b.example"}, map[string]any{"email": "own@b.example", "email_verified": true}, "own@b.example"},
		{map[string]any{"email": "boss@b.example"}, map[string]any{"email": "own@b.example", "email_verified": true}, ""},
		{map[string]any{"email": "boss@b.example"}, map[string]any{"email_verified": true}, ""},
		{map[string]any{"email": "boss@b.example", "email_verified": false}, map[string]any{"email": "own@b.example", "email_verified": true}, ""},
	} {
		token, info = test.token, test.info
		token["aud"], token["nonce"] = "berth", "n"
		info["sub"], info["preferred_username"] = "somebody", "ann"
		p, err := w.Issuer.current(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		person, err := login.redeem(t.Context(), p, &attempt{Nonce: "n"}, "code")
		if err != nil || person.Mail != test.want {
			t.Errorf("%v and %v: %+v, %v", test.token, test.info, person, err)
		}
	}
}

// Nobody is sent to enter a password where it could be read on the way.
func TestAddressesForPeople(t *testing.T) {
	public, own := must(NewIssuer(Options{Issuer: "https://accounts.example.com"})), must(NewIssuer(Options{Issuer: "http://127.0.0.1:5556"}))
	for address, want := range map[string][2]bool{
		"https://accounts.example.com/authorize": {true, true}, "http://accounts.example.com/authorize": {false, false},
		"http://127.0.0.1:5556/authorize": {false, true}, "javascript:alert(1)": {false, false}, "/authorize": {false, false}, "": {false, false},
		"https://user:secret@accounts.example.com/": {false, false},
	} {
		if got := [2]bool{public.isSafe(address), own.isSafe(address)}; got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	w := newWorld(t)
	w.discovery["authorization_endpoint"], w.discovery["token_endpoint"] = "http://accounts.example.com/authorize", w.Server.URL+"/token"
	login := must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", RedirectURL: "https://registry.example.com/back"}))
	rec := httptest.NewRecorder()
	wantError(t, login.Begin(rec, httptest.NewRequest(http.MethodGet, "/begin", nil), "/"), ErrUnavailable, "no address with https://")
	if len(rec.Header()) != 0 {
		t.Errorf("it was begun: %v", rec.Header())
	}
}

// The token of a browser's sign-in is none of a command line, also where both are one client.
func TestDeviceTokenHasNoNonce(t *testing.T) {
	w := newWorld(t)
	login := must(NewLogin(LoginOptions{Issuer: w.Issuer, ClientID: "berth", DeviceClientID: "berth", RedirectURL: "https://registry.example.com/back", GroupsClaim: "groups"}))
	claims := map[string]any{"aud": "berth", "preferred_username": "ann"}
	person, _, err := login.FromDevice(t.Context(), w.first.sign(t, w.claims(claims)))
	if err != nil || person.Groups == nil || len(person.Groups) != 0 {
		t.Errorf("%+v, %v", person, err) // who is in no group any more keeps none
	}
	claims["nonce"] = "n"
	_, _, err = login.FromDevice(t.Context(), w.first.sign(t, w.claims(claims)))
	wantError(t, err, ErrToken, "with a browser")
}

func TestUserName(t *testing.T) {
	for s, want := range map[string]string{
		"alice": "alice", "Alice": "alice", "a": "a", "7": "7", "j.doe": "j.doe", "j_doe-2": "j_doe-2", strings.Repeat("a", 64): strings.Repeat("a", 64),
		"": "", ".a": "", "a.": "", "a..b": "", "a._b": "", "-": "", "a b": "", "a/b": "", "a@b": "", "ü": "", "\u212Aate": "", "a\x00": "", "аlice": "", strings.Repeat("a", 65): "",
	} {
		got, err := UserName(s)
		if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrToken) {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}
