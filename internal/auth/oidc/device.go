package oidc

import (
	"context"
	"errors"
	"net/url"
	"time"

	goidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	maxDeviceTime = 30 * time.Minute // for somebody to go to a browser
	maxInterval   = 60               // seconds between two questions
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
	ctx, cancel := context.WithTimeout(goidc.ClientContext(ctx, issuer.client), maxDeviceTime)
	defer cancel()

	da, err := config.DeviceAuth(ctx)
	if err != nil {
		return "", answered(err)
	}
	if da.DeviceCode == "" || da.UserCode == "" || !isWeb(da.VerificationURI) {
		return "", unavailable(nil, "its device flow answers nonsense")
	}
	complete := da.VerificationURIComplete
	if !isWeb(complete) {
		complete = ""
	}
	show(clip(da.UserCode, 100), clip(da.VerificationURI, 500), clip(complete, 500))

	da.Interval = min(max(da.Interval, 0), maxInterval) // 0 becomes 5; the library does not look
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
		case errors.Is(ctx.Err(), context.Canceled):
			return "", context.Cause(ctx)
		case ctx.Err() != nil, !da.Expiry.IsZero() && !time.Now().Before(da.Expiry):
			return "", refused("nobody entered the code in time: begin again")
		case errors.As(err, &answer), !errors.As(err, &sent):
			return "", answered(err)
		}
		// RFC 8628 section 3.5: whoever gets no answer asks less often.
		da.Interval = min(max(2*da.Interval, 10), maxInterval)
	}
}

// isWeb tells whether an address is one for a browser.
func isWeb(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Hostname() != "" && (u.Scheme == "https" || u.Scheme == "http")
}
