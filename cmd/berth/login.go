package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berthregistry/berth/internal/auth/oidc"
	"github.com/berthregistry/berth/internal/signin"
	"github.com/berthregistry/berth/internal/upstream"
)

// login signs in at a registry by way of an issuer.
type login struct {
	conn     connection
	sso      bool
	issuerCA string

	client *upstream.Client
}

func newLoginCommand() *cobra.Command {
	var l login
	cmd := &cobra.Command{
		Use:   "login HOST --sso [PROVIDER]",
		Short: "Sign in at a Berth with the account of an OpenID Connect provider",
		Long: `Sign in at a Berth with the account of an OpenID Connect provider. The command shows a code and an address; a browser, on whatever
machine, is enough. What the registry gives for it, a token that is good until you have to sign in again, is kept as docker login keeps
credentials, so that docker, podman and the other commands use it. "berth token add" makes others with it.

PROVIDER is the name that the provider has at the registry; with one provider it can be left out. With a name and a password or
token, sign in with docker login.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("HOST is missing")
			}
			if len(args) > 2 {
				return fmt.Errorf("%q is one argument too many", args[2])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !l.sso {
				return usagef(cmd, "with a name and a password, sign in with docker login; with the account of a provider, give --sso")
			}
			provider := ""
			if len(args) > 1 {
				provider = args[1]
			}
			return l.run(cmd, args[0], provider)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&l.sso, "sso", false, "sign in at a provider")
	flags.StringVar(&l.issuerCA, "issuer-ca", "", "trust the certificates in `FILE` (PEM) of the provider, in place of the system's")
	l.conn.addFlags(flags)
	return cmd
}

func (l *login) run(cmd *cobra.Command, host, provider string) (err error) {
	ctx := cmd.Context()
	if l.client, err = l.conn.client(ctx, host); err != nil {
		return err
	}
	defer l.client.Close()
	if provider == "" {
		if provider, err = l.onlyProvider(ctx); err != nil {
			return err
		}
	}
	where := signin.DevicePath(provider)
	var at signin.DeviceClient
	if err := l.call(ctx, http.MethodGet, where, nil, &at); err != nil {
		return err
	}
	issuer, err := oidc.NewIssuer(oidc.Options{Issuer: at.Issuer, CAFile: l.issuerCA})
	if err != nil {
		return err
	}
	out := cmd.ErrOrStderr()
	token, err := oidc.DeviceLogin(ctx, issuer, at.ClientID, at.Scopes, func(code, address, complete string) {
		// The registry has named them, so that one that is not to be trusted could ask for what is good elsewhere.
		fmt.Fprintf(out, "%s will see a token that says who you are at %s, made for the client %s.\n", host, upstream.Printable(at.Issuer), upstream.Printable(at.ClientID))
		fmt.Fprintf(out, "To sign in, open %s in a browser and enter the code %s\n", address, code)
		if complete != "" {
			fmt.Fprintf(out, "or open %s, and compare the code.\n", complete)
		}
	})
	if e, ok := errors.AsType[*oidc.Error](err); ok && errors.Is(err, oidc.ErrUnavailable) {
		return fmt.Errorf("%s, the provider of %s, cannot be used: %w", upstream.Printable(at.Issuer), host, e)
	}
	if err != nil {
		return err
	}
	var in signin.SignedIn
	if err := l.call(ctx, http.MethodPost, where, signin.DeviceToken{IDToken: token}, &in); err != nil {
		return err
	}
	file, err := upstream.StoreCredential(ctx, host, upstream.Credential{Username: in.Name, Password: in.Token})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "Signed in at %s as %s until %s. The token is kept as %s says, like that of docker login.\n",
		host, upstream.Printable(in.Name), in.Expires.Local().Format(time.DateTime), file)
	return err
}

// onlyProvider returns the name of the provider if there is one.
func (l *login) onlyProvider(ctx context.Context) (string, error) {
	var all signin.Listing
	if err := l.call(ctx, http.MethodGet, signin.Path, nil, &all); err != nil {
		return "", err
	}
	if len(all.Providers) == 1 {
		return all.Providers[0].Name, nil
	}
	var names []string
	for _, p := range all.Providers {
		names = append(names, upstream.Printable(p.Name))
	}
	return "", fmt.Errorf("%s has several providers: name one of %s after --sso", l.client.Host(), strings.Join(names, ", "))
}

// maxSignin bounds an answer, in bytes.
const maxSignin = 1 << 20

// call sends in, if not nil, as JSON to a path of the registry and reads the answer into out.
func (l *login) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, l.client.Origin()+path, nil)
	if err != nil {
		return err
	}
	if in != nil {
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", userAgent())
	resp, err := l.client.Connections().RoundTrip(req) // which follows no redirect
	if err != nil {
		return &upstream.OpError{Host: l.client.Host(), Op: "sign in", Err: err}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxSignin))
	if err != nil {
		return &upstream.OpError{Host: l.client.Host(), Op: "sign in", Err: err}
	}
	if resp.StatusCode == http.StatusOK {
		if json.Unmarshal(b, out) == nil {
			return nil
		}
		return fmt.Errorf("%s: its answer is not that of a Berth", l.client.Host())
	}
	var form struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(b, &form) != nil || len(form.Errors) == 0 || resp.StatusCode == http.StatusNotFound && form.Errors[0].Code != "NOT_FOUND" {
		return fmt.Errorf("%s: nobody signs in there with a provider (%s): sign in with docker login", l.client.Host(), resp.Status)
	}
	return fmt.Errorf("%s: %s", l.client.Host(), upstream.Printable(form.Errors[0].Message))
}
