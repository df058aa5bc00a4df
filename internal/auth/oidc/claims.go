package oidc

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	josejson "github.com/go-jose/go-jose/v4/json"
)

// maxClaim is the length of the longest name of a claim, in bytes, and maxDots how many dots may be in it.
const (
	maxClaim = 256
	maxDots  = 16
)

// Claims are what an issuer says in a token. Values are as in JSON; numbers are kept as they were written.
type Claims map[string]any

// decodeClaims reads a JSON object. This decoder refuses names that stand twice and takes case as it is, so that no two readers see
// different claims.
func decodeClaims(b []byte) (Claims, error) {
	dec := josejson.NewDecoder(bytes.NewReader(b))
	dec.SetNumberType(josejson.UnmarshalJSONNumber)
	var c Claims
	if err := dec.Decode(&c); err != nil {
		return nil, err
	}
	if c == nil {
		return nil, errors.New("null has no claims")
	}
	return c, nil
}

// lookup finds a claim by its name or by a path of names, separated by dots, into nested objects. Names may hold dots themselves:
// kubernetes.io.namespace is namespace in kubernetes.io, and https://example.com/groups is one name. How many claims it finds
// is returned too: with more than one nobody can tell which was meant, so that none counts.
func (c Claims) lookup(path string) (value any, found int) {
	if len(path) > maxClaim || strings.Count(path, ".") > maxDots {
		return nil, 0
	}
	return lookup(c, path)
}

func lookup(object map[string]any, path string) (value any, found int) {
	if v, ok := object[path]; ok {
		value, found = v, 1
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		inner, ok := object[path[:i]].(map[string]any)
		if !ok {
			continue
		}
		if v, n := lookup(inner, path[i+1:]); n > 0 {
			value, found = v, found+n
		}
	}
	return value, found
}

// values returns the values of a claim as text: one for a string, a number (as it was written) or a boolean, any number for a list of
// them. A claim that is missing, null or an object has none.
func (c Claims) values(path string) []string {
	v, found := c.lookup(path)
	if found != 1 {
		return nil
	}
	elements, ok := v.([]any)
	if !ok {
		elements = []any{v}
	}
	var out []string
	for _, e := range elements {
		if s, ok := text(e); ok {
			out = append(out, s)
		}
	}
	return out
}

// one returns the value of a claim that has exactly one, or "".
func (c Claims) one(path string) string {
	if v := c.values(path); len(v) == 1 {
		return v[0]
	}
	return ""
}

func text(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case josejson.Number:
		return v.String(), true
	}
	return "", false
}
