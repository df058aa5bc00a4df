package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	maxDeviceTime = 30 * 60 // seconds for somebody to go to a browser
	maxInterval   = 60      // seconds between two questions
)

// DeviceLogin signs in at an issuer without a browser here (RFC 8628), as the public client clientID. It has show called once, with
// the code that the person is to enter at the address, and waits until that is done. complete is the address with the code in it, or "". It returns an ID
// token for Login.FromDevice. scopes is nil for openid, profile and email. The error is an *Error, or that of ctx.
func DeviceLogin(ctx context.Context, issuer *Issuer, clientID string, scopes []string, show func(code, address, complete string)) (idToken string, err error) {
	p, err := issuer.current(ctx)
	if err != nil {
		return "", err
	}
	if p.provider == nil || p.provider.Endpoint().DeviceAuthURL == "" {
		return "", unavailable(nil, "it has no device flow: its discovery document names no device_authorization_endpoint")
	}
	if scopes == nil {
		scopes = []string{goidc.ScopeOpenID, "profile", "email"}
	}
	config := &oauth2.Config{ClientID: clientID, Endpoint: p.provider.Endpoint(), Scopes: scopes}
	config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	ctx = goidc.ClientContext(ctx, issuer.client)
	da, err := issuer.authorizeDevice(ctx, config)
	if err != nil {
		return "", err
	}
	show(clip(da.UserCode, 100), clip(da.VerificationURI, 500), clip(da.VerificationURIComplete, 500))
	for {
		tokens, err := config.DeviceAccessToken(ctx, da)
		var answer *oauth2.RetrieveError
		var sent *url.Error
		switch {
		case err == nil:
			raw, _ := tokens.Extra("id_token").(string)
			if raw == "" {
				return "", unavailable(nil, "its answer has no ID token")
			}
			return raw, nil
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case !time.Now().Before(da.Expiry):
			return "", refused("nobody entered the code in time: begin again")
		case errors.As(err, &answer), !errors.As(err, &sent):
			return "", answered(err)
		}
		// RFC 8628 section 3.5: whoever gets no answer asks less often.
		da.Interval = min(max(2*da.Interval, 10), maxInterval)
	}
}

// authorizeDevice asks for a code (RFC 8628 section 3.1). The library would do that, but panics if the answer is null, and believes
// whatever times it names.
func (i *Issuer) authorizeDevice(ctx context.Context, config *oauth2.Config) (*oauth2.DeviceAuthResponse, error) {
	form := url.Values{"client_id": {config.ClientID}, "scope": {strings.Join(config.Scopes, " ")}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, config.Endpoint.DeviceAuthURL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, unavailable(err, "its device_authorization_endpoint is not a URL")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	begun := time.Now()
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, unavailable(err, "its device flow cannot be asked")
	}
	defer resp.Body.Close()
	var answer struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
		Address    string `json:"verification_uri"`
		Complete   string `json:"verification_uri_complete"`
		Expires    int64  `json:"expires_in"` // seconds
		Interval   int64  `json:"interval"`   // seconds; 5 if it is not there

		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	err = json.NewDecoder(resp.Body).Decode(&answer)
	switch {
	case resp.StatusCode != http.StatusOK:
		return nil, answered(&oauth2.RetrieveError{Response: resp, ErrorCode: answer.Error, ErrorDescription: answer.Description})
	case err != nil || answer.DeviceCode == "" || answer.UserCode == "" || !i.isSafe(answer.Address) || answer.Expires <= 0:
		return nil, unavailable(err, "its device flow answers nonsense")
	}
	if !i.isSafe(answer.Complete) {
		answer.Complete = ""
	}
	return &oauth2.DeviceAuthResponse{
		DeviceCode: answer.DeviceCode, UserCode: answer.UserCode, VerificationURI: answer.Address, VerificationURIComplete: answer.Complete,
		Expiry:   begun.Add(time.Duration(min(answer.Expires, maxDeviceTime)) * time.Second),
		Interval: min(max(answer.Interval, 0), maxInterval),
	}, nil
}
