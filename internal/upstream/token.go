package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/egress"
)

const (
	tokenTimeout = 30 * time.Second
	tokenLimit   = 256 << 10 // bytes of a token server's answer
	maxTokens    = 1024      // kept by a client; one for each repository in use
	clientID     = "berth"   // in the OAuth2 form of the request
)

// fetchToken asks the token server that the challenge names: with a GET as docker
// does, or, if the credential is an identity token, with OAuth2's POST.
func (t *authTransport) fetchToken(ctx context.Context, ch *challenge, scopes []string, cred Credential) (token, error) {
	if cred.AccessToken != "" {
		return token{value: cred.AccessToken, expires: time.Now().Add(time.Hour)}, nil
	}
	realm, err := t.checkRealm(ch.params["realm"])
	if err != nil {
		return token{}, err
	}
	var req *http.Request
	if cred.IdentityToken != "" {
		form := url.Values{
			"grant_type":    {"refresh_token"},
			"refresh_token": {cred.IdentityToken},
			"client_id":     {clientID},
			"service":       {ch.params["service"]},
		}
		if len(scopes) > 0 {
			form.Set("scope", strings.Join(scopes, " "))
		}
		req, err = http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err != nil {
			return token{}, err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	} else {
		q := realm.Query()
		if service := ch.params["service"]; service != "" {
			q.Set("service", service)
		}
		for _, s := range scopes {
			q.Add("scope", s)
		}
		realm.RawQuery = q.Encode()
		req, err = http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
		if err != nil {
			return token{}, err
		}
		if cred.Username != "" || cred.Password != "" {
			req.SetBasicAuth(cred.Username, cred.Password)
		}
	}

	asked := time.Now()
	client := &http.Client{Transport: t.base, CheckRedirect: stayAtOrigin}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error // its text has the whole query
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return token{}, fmt.Errorf("token server %s: %w", realm.Host, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return token{}, fmt.Errorf("token server %s: %w", realm.Host, responseError(resp))
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, tokenLimit)).Decode(&answer); err != nil {
		return token{}, fmt.Errorf("token server %s: its answer is not a token: %w", realm.Host, err)
	}
	tok := token{value: answer.Token}
	if tok.value == "" {
		tok.value = answer.AccessToken
	}
	if tok.value == "" || strings.ContainsAny(tok.value, "\r\n") {
		return token{}, fmt.Errorf("token server %s: its answer has no token", realm.Host)
	}
	// The token protocol says 60 seconds where nothing is said. The margin is for the way and the clocks.
	life := time.Minute
	if answer.ExpiresIn > 0 {
		life = time.Duration(min(answer.ExpiresIn, 24*60*60)) * time.Second
	}
	tok.expires = asked.Add(life - life/6)
	return tok, nil
}

// checkRealm refuses a token server that would get the credentials over a
// connection that is less safe than the registry's.
func (t *authTransport) checkRealm(realm string) (*url.URL, error) {
	u, err := url.Parse(realm)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%s names %q as its token server, which is not a URL with http or https", t.host, Printable(realm))
	case u.Scheme == "http" && t.origin.Scheme == "https":
		return nil, fmt.Errorf("%s names %q as its token server: credentials are not sent there without TLS", t.host, Printable(realm))
	}
	return u, nil
}

// stayAtOrigin lets a token request be redirected within its server only, because
// it carries the credentials.
func stayAtOrigin(req *http.Request, via []*http.Request) error {
	if first := via[0].URL; req.URL.Scheme != first.Scheme || egress.HostPort(req.URL) != egress.HostPort(first) {
		return fmt.Errorf("it redirects to %s, where credentials are not sent", req.URL.Host)
	}
	if len(via) >= 5 {
		return errors.New("it redirects again and again")
	}
	return nil
}
