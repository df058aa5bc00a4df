package signin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	"github.com/berthregistry/berth/internal/web"
)

//go:embed page.html
var pageSource string

// page is what is shown. One of Providers, In and Reason is set.
type page struct {
	Title string

	Providers []Provider // to choose from

	In   *SignedIn
	Host string // as docker login wants it

	Reason string // why nobody is signed in
	Again  string // the path to try again
}

// show answers with a page, which loads nothing, runs nothing, is shown in no other page and tells nobody where it was.
func (h *Handler) show(w *web.Response, status int, p page) error {
	var out bytes.Buffer
	if err := h.page.Execute(&out, p); err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", "text/html; charset=utf-8")
	hd.Set("Content-Length", strconv.Itoa(out.Len()))
	hd.Set("Cache-Control", "no-store")
	hd.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src "+styleHash(out.String()))
	hd.Set("Referrer-Policy", "no-referrer")
	hd.Set("X-Content-Type-Options", "nosniff")
	if status == http.StatusServiceUnavailable {
		hd.Set("Retry-After", "10")
	}
	w.WriteHeader(status)
	_, err := w.Write(out.Bytes())
	return err
}

func newPage() *template.Template { return template.Must(template.New("page").Parse(pageSource)) }

// styleHash returns what a Content-Security-Policy calls the only style of a page.
func styleHash(text string) string {
	_, rest, _ := strings.Cut(text, "<style>")
	style, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
