package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

// SetupPath is where a person makes the first account with a browser. The one-time secret stands behind a '#', which browsers do not send.
const SetupPath = "/setup"

// setupSetting holds the one-time secret and the time until which it can be used, in milliseconds since 1970, with a space between; or
// setupDone, once there was an administrator.
const (
	setupSetting = "setup"
	setupDone    = "done"
	setupFor     = 24 * time.Hour
)

// NewSetup is the first administrator, and the one-time secret of the server's log.
type NewSetup struct {
	Token    string `json:"token"`
	Name     string `json:"name"`
	Password string `json:"password"`
}

// OfferSetup returns the one-time secret by which the first administrator can be made, for a day from now on; empty if there is one. All
// nodes offer the same.
func (h *Handler) OfferSetup(ctx context.Context) (token string, err error) {
	if over, err := h.setupIsOver(ctx); over || err != nil {
		return "", err
	}
	now := h.opts.Now()
	token, until, err := h.setupToken(ctx)
	if err != nil {
		return "", err
	}
	if token == "" || !now.Before(until) {
		token = rand.Text()
	}
	if err := h.opts.DB.SetSetting(ctx, setupSetting, setupOffer(token, now.Add(setupFor))); err != nil {
		return "", err
	}
	token, _, err = h.setupToken(ctx) // another node may have come later
	return token, err
}

// setupIsOver tells whether there is an administrator, and remembers it.
func (h *Handler) setupIsOver(ctx context.Context) (bool, error) {
	v, err := h.opts.DB.Setting(ctx, setupSetting)
	if err != nil && !errors.Is(err, meta.ErrNotFound) || string(v) == setupDone {
		return err == nil, err
	}
	there, err := h.opts.DB.HasAdministrator(ctx)
	if err != nil || !there || h.opts.ReadOnly {
		return there, err
	}
	return true, h.opts.DB.SetSetting(ctx, setupSetting, []byte(setupDone))
}

// setupToken returns the one-time secret that was offered last, empty if there is none.
func (h *Handler) setupToken(ctx context.Context) (token string, until time.Time, err error) {
	v, err := h.opts.DB.Setting(ctx, setupSetting)
	if errors.Is(err, meta.ErrNotFound) {
		return "", time.Time{}, nil
	}
	token, ms, ok := strings.Cut(string(v), " ")
	n, bad := strconv.ParseInt(ms, 10, 64)
	if err != nil || !ok || bad != nil {
		return "", time.Time{}, err
	}
	return token, time.UnixMilli(n), nil
}

// setup makes the first administrator.
func (h *Handler) setup(c *call) (any, error) {
	var n NewSetup
	if err := c.read(&n); err != nil {
		return nil, err
	}
	c.made = n.Name
	return h.firstAdministrator(c, n)
}

var errSetup = oci.Errorf(oci.CodeDenied, "the one-time secret is wrong, too old, or was used: "+
	"the log of the server has it while there is no administrator, and a restart makes it valid for another day")

func (h *Handler) firstAdministrator(c *call, n NewSetup) (any, error) {
	token, until, err := h.setupToken(c.Context())
	if err != nil {
		return nil, err
	}
	same := subtle.ConstantTimeCompare([]byte(token), []byte(n.Token)) == 1
	if token == "" || !same || !h.opts.Now().Before(until) {
		return nil, errSetup
	}
	if over, err := h.setupIsOver(c.Context()); err != nil || over {
		return nil, errors.Join(err, errSetup)
	}
	if n.Password == "" {
		return nil, errInvalid("the first administrator needs a password")
	}
	yes := true
	answer, err := h.addUser(c, &NewUser{Name: n.Name, Password: n.Password, AccountChange: AccountChange{Admin: &yes}},
		func(ctx context.Context, a *meta.Account) error {
			// The secret is used up with it, so that of several nodes one makes an administrator.
			return h.changes(c).CreateAccountFor(ctx, a, setupSetting, setupOffer(token, until), []byte(setupDone))
		})
	if errors.Is(err, meta.ErrNotFound) {
		err = errSetup
	}
	return answer, err
}

// setupOffer is what the setting is while the first administrator can be made.
func setupOffer(token string, until time.Time) []byte {
	return fmt.Appendf(nil, "%s %d", token, until.UnixMilli())
}

// setupPage is all that a browser needs.
//
//go:embed setup.html
var setupPage string

// servePage answers with the page by which a person makes the first account.
func (h *Handler) servePage(w *web.Response, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return oci.Errorf(oci.CodeUnsupported, "%s is not supported here; supported: GET, HEAD", r.Method)
	}
	hd := w.Header()
	hd.Set("Content-Type", "text/html; charset=utf-8")
	hd.Set("Content-Length", strconv.Itoa(len(setupPage)))
	hd.Set("Cache-Control", "no-store")
	hd.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; script-src "+
		sourceHash(setupPage, "script")+"; style-src "+sourceHash(setupPage, "style"))
	hd.Set("Referrer-Policy", "no-referrer")
	hd.Set("X-Content-Type-Options", "nosniff")
	_, err := w.Write([]byte(setupPage))
	return err
}

// sourceHash returns what a Content-Security-Policy calls the only element of a kind in a page.
func sourceHash(page, element string) string {
	_, rest, _ := strings.Cut(page, "<"+element+">")
	text, _, _ := strings.Cut(rest, "</"+element+">")
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
