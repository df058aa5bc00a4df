package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

// Codes of errors beside those of the specification.
const (
	codeInvalid  oci.Code = "INVALID"
	codeNotFound oci.Code = "NOT_FOUND"
	codeConflict oci.Code = "CONFLICT"
)

func errInvalid(format string, args ...any) *oci.Error {
	return oci.Errorf(codeInvalid, format, args...).WithStatus(http.StatusBadRequest)
}

func errNotFound(format string, args ...any) *oci.Error {
	return oci.Errorf(codeNotFound, "there is "+format, args...).WithStatus(http.StatusNotFound)
}

func errConflict(format string, args ...any) *oci.Error {
	return oci.Errorf(codeConflict, format, args...).WithStatus(http.StatusConflict)
}

// known makes an answer of what the database says about a request.
func known(err error) error {
	if _, ok := errors.AsType[*oci.Error](err); ok {
		return err
	}
	switch {
	case errors.Is(err, meta.ErrNotFound):
		if what := strings.TrimSuffix(err.Error(), ": "+meta.ErrNotFound.Error()); what != err.Error() {
			return errNotFound("no %s", what)
		}
		return errNotFound("nothing of that name here")
	case errors.Is(err, meta.ErrExists):
		return errConflict("the name is taken")
	}
	return err
}

// call is a request and who makes it.
type call struct {
	*http.Request
	caller
	action string // of the route
	// facts are what rights to the repository of the path rest on, where these were asked for.
	facts *access.Facts
	// For the audit log: what the caller has signed in with, the name of what is made or its ID once there is one, and what is said about it or
	// changed, without secrets.
	credential string
	made       string
	madeID     *int64
	detail     any
}

const maxBody = 64 << 10 // bytes

// read reads the body, JSON whose fields are all known. An empty one is as good as {}.
func (c *call) read(into any) error { return c.readUpTo(maxBody, into) }

// readUpTo is read for a body of another size.
func (c *call) readUpTo(limit int64, into any) error {
	if t, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return oci.Errorf(codeInvalid, "the body must be application/json").WithStatus(http.StatusUnsupportedMediaType)
	}
	b, err := io.ReadAll(io.LimitReader(c.Body, limit+1))
	switch {
	case err != nil:
		return err
	case int64(len(b)) > limit:
		return oci.Errorf(codeInvalid, "the body has more than %d bytes", limit).WithStatus(http.StatusRequestEntityTooLarge)
	}
	return parse(b, into)
}

// parse reads JSON whose fields are all known.
func parse(b []byte, into any) error {
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == io.EOF {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		return errInvalid("the body is more than one JSON value")
	}
	var kind *json.UnmarshalTypeError
	var wrong *valueError
	switch {
	case errors.As(err, &wrong):
		return errInvalid("%v", wrong)
	case errors.As(err, &kind):
		return errInvalid("the field %q cannot be a %s", clip(kind.Field), kind.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return errInvalid("there is no field %s here", clip(name))
	}
	return errInvalid("the body is not valid JSON")
}

// valueError is what is wrong with the value of a field.
type valueError struct{ text string }

func (e *valueError) Error() string { return e.text }

// clip shortens what a client sent before it is put into a message.
func clip(s string) string {
	const limit = 100
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// created is an answer with the status 201.
type created struct{ body any }

// lines is an answer in parts, one JSON value on each line.
type lines func(*json.Encoder) error

// reply answers with JSON, which nobody may keep; nothing is 204.
func reply(w *web.Response, answer any) error {
	hd := w.Header()
	hd.Set("Cache-Control", "no-store")
	status := http.StatusOK
	switch c := answer.(type) {
	case nil:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case created:
		status, answer = http.StatusCreated, c.body
	case lines:
		hd.Set("Content-Type", "application/x-ndjson")
		return c(json.NewEncoder(w))
	}
	b, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	hd.Set("Content-Type", "application/json")
	hd.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}

// Page is a part of a list.
type Page[T any] struct {
	Items []T `json:"items"`
	// Next is what the parameter after is for the next part; empty if there is none.
	Next string `json:"next,omitempty"`
}

const (
	usualPage = 100
	maxPage   = 1000
)

// pageSize reads how many items of a list a request asks for.
func (c *call) pageSize() (int, error) {
	s := c.URL.Query().Get("n")
	if s == "" {
		return usualPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxPage {
		return 0, errInvalid("n must be a number from 1 to %d", maxPage)
	}
	return n, nil
}

// page answers with the part of a list that the request asks for. get returns up to n after a key.
func page[R, T any](c *call, get func(after string, n int) ([]R, error), key func(R) string, show func(R) T) (any, error) {
	n, err := c.pageSize()
	if err != nil {
		return nil, err
	}
	all, err := get(c.URL.Query().Get("after"), n+1)
	if err != nil {
		return nil, err
	}
	p := Page[T]{Items: make([]T, 0, len(all))}
	for i, r := range all {
		if i == n {
			p.Next = key(all[n-1])
			break
		}
		p.Items = append(p.Items, show(r))
	}
	return p, nil
}

// Expiry is a time in RFC 3339, or empty for never.
type Expiry struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler.
func (e *Expiry) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return &valueError{"a time is a text as in 2026-12-31T00:00:00Z, or empty for never"}
	}
	if s == "" {
		e.Time = time.Time{}
		return nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() < 1970 {
		return &valueError{fmt.Sprintf("%q is not a time: write it as 2026-12-31T00:00:00Z, or empty for never", clip(s))}
	}
	e.Time = t
	return nil
}

// MarshalJSON implements json.Marshaler.
func (e Expiry) MarshalJSON() ([]byte, error) {
	if e.IsZero() {
		return []byte(`""`), nil
	}
	return json.Marshal(e.UTC().Format(time.RFC3339))
}

// id returns the number at the end of the path.
func (c *call) id() (int64, error) {
	id, err := strconv.ParseInt(c.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		return 0, errNotFound("no id %q", clip(c.PathValue("id")))
	}
	return id, nil
}

// Bounds of what is stored as a list of texts.
const (
	maxList    = 50
	maxPattern = 512 // bytes
	maxText    = 256 // bytes of a name for people
)

// networksOf reads networks.
func networksOf(list []string) (access.Networks, error) {
	if len(list) > maxList {
		return nil, errInvalid("there can be %d networks, not %d", maxList, len(list))
	}
	var all access.Networks
	for _, s := range list {
		n, err := access.ParseNetworks(clip(s))
		if err == nil && len(n) == 0 {
			err = fmt.Errorf("%q is no network", clip(s)) // and none stands for everywhere
		}
		if err != nil {
			return nil, errInvalid("%v", err)
		}
		all = append(all, n...)
	}
	return all, nil
}

func networkTexts(n access.Networks) []string { return strings.Fields(n.String()) }

// patternsOf reads patterns.
func patternsOf(list []string) (access.Patterns, error) {
	if len(list) > maxList {
		return nil, errInvalid("there can be %d patterns, not %d", maxList, len(list))
	}
	var all access.Patterns
	for _, s := range list {
		switch {
		case len(s) > maxPattern:
			return nil, errInvalid("the pattern %q is too long", clip(s))
		case len(strings.Fields(s)) != 1:
			return nil, errInvalid("%q is no pattern: it is empty or has spaces; several patterns are several texts", s)
		// Alternatives multiply.
		case strings.Count(s, "{") > 2, strings.Count(s, "**") > 3:
			return nil, errInvalid("the pattern %q has more than two groups in braces, or more than three times **: use several patterns", s)
		}
		p, err := access.ParsePatterns(s)
		if err != nil {
			return nil, errInvalid("%v", err)
		}
		all = append(all, p...)
	}
	return all, nil
}

// checkText tells what is wrong with a text for people.
func checkText(field, s string) error {
	if len(s) > maxText || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errInvalid("%s must be text of up to %d bytes on one line", field, maxText)
	}
	return nil
}
