package oci

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The grammar as spec.md#pulling-manifests states it.
var (
	nameGrammar      = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	componentGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	tagGrammar       = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestGrammar    = regexp.MustCompile(`^(sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})$`)
)

// wantCode fails unless err is an *Error of the code, with a message of bounded length.
func wantCode(t *testing.T, err error, code Code) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		t.Fatalf("error is %v, want an *Error of code %s", err, code)
	case e.Code != code:
		t.Fatalf("error is %q, want code %s", e, code)
	case e.Message == "" || len(e.Message) > 1000:
		t.Fatalf("message has %d bytes: %.200q", len(e.Message), e.Message)
	}
}

func TestParseRepository(t *testing.T) {
	for _, s := range []string{
		"a", "0", "app", "library/nginx", "a/b/c/d", "a.b", "a_b", "a__b", "a-b", "a--b", "a------b",
		"a.b_c__d-e---f", "1.2.3", "a/b.c/d_e", "0/0", "xn--bcher-kva",
		strings.Repeat("a", 255), strings.Repeat("a/", 127) + "a", "a" + strings.Repeat("-", 253) + "b",
	} {
		if r, err := ParseRepository(s); err != nil || string(r) != s {
			t.Errorf("ParseRepository(%.40q) = %.40q, %v", s, r, err)
		}
	}
	for _, s := range []string{
		"", "/", "a/", "/a", "a//b", ".", "..", "../etc/passwd", "a/../b", "a/./b", ".a", "a.", "_a", "a_", "-a", "a-",
		"a..b", "a___b", "a____b", "a._b", "a_.b", "a.-b", "a-.b", "a_-b", "a-_b", "a--_b", "a/-b", "a-/b",
		"A", "aB", "a b", " a", "a ", "a\n", "\na", "a\x00", "a\x00b", "a%2fb", "a\\b", "a:b", "a@b", "é", "a\xffb", "ａ",
		strings.Repeat("a", 256), strings.Repeat("-", 1<<20), strings.Repeat("a/", 1<<20),
	} {
		_, err := ParseRepository(s)
		if err == nil {
			t.Errorf("ParseRepository(%.40q) accepted", s)
			continue
		}
		wantCode(t, err, CodeNameInvalid)
	}
}

// All short strings over the letters that matter: every transition of the hand-written
// automaton, compared with the grammar.
func TestComponentIsTheGrammar(t *testing.T) {
	const letters, longest = "a._-A", 6
	var b [longest]byte
	tried, accepted := 0, 0
	var try func(n int)
	try = func(n int) {
		s := string(b[:n])
		tried++
		got := validComponent(s)
		if want := componentGrammar.MatchString(s); got != want {
			t.Fatalf("validComponent(%q) = %v, the grammar says %v", s, got, want)
		}
		if got {
			accepted++
		}
		if n == longest {
			return
		}
		for i := range len(letters) {
			b[n] = letters[i]
			try(n + 1)
		}
	}
	try(0)
	if tried < 19_000 || accepted < 100 {
		t.Fatalf("only %d strings tried, %d accepted", tried, accepted)
	}
}

func FuzzRepository(f *testing.F) {
	for _, s := range []string{"", "a", "library/nginx", "a.b_c__d-e---f/0", "a/", "a..b", "a___b", "a-_b", "A", "a/\n", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for part := range strings.SplitSeq(s, "/") {
			if got, want := validComponent(part), componentGrammar.MatchString(part); got != want {
				t.Fatalf("validComponent(%q) = %v, the grammar says %v", part, got, want)
			}
		}
		r, err := ParseRepository(s)
		if want := nameGrammar.MatchString(s) && len(s) <= 255; want != (err == nil) {
			t.Fatalf("ParseRepository(%q): %v, the grammar says %v", s, err, want)
		}
		if err != nil {
			wantCode(t, err, CodeNameInvalid)
		} else if string(r) != s {
			t.Fatalf("ParseRepository(%q) = %q", s, r)
		}
	})
}

func TestParseTag(t *testing.T) {
	for _, s := range []string{"latest", "1.0", "v1.0-rc.1_2", "_", "A", "_.-", "0", "sha256-" + strings.Repeat("a", 64), strings.Repeat("t", 128)} {
		if g, err := ParseTag(s); err != nil || string(g) != s {
			t.Errorf("ParseTag(%q) = %q, %v", s, g, err)
		}
	}
	for _, s := range []string{"", ".", "..", ".a", "-a", "a/b", "a b", "a+b", "a\n", "\x00", "a:b", "é", "a%20", strings.Repeat("t", 129), strings.Repeat("t", 1<<20)} {
		_, err := ParseTag(s)
		if err == nil {
			t.Errorf("ParseTag(%.40q) accepted", s)
			continue
		}
		wantCode(t, err, CodeManifestInvalid)
	}
}

func TestParseReference(t *testing.T) {
	d := DigestBytes(SHA256, []byte("x"))
	if r, err := ParseReference(d.String()); err != nil || !r.IsDigest() || r.Digest != d || r.Tag != "" || r.String() != d.String() {
		t.Errorf("by digest: %+v, %v", r, err)
	}
	if r, err := ParseReference("v1"); err != nil || r.IsDigest() || r.Tag != "v1" || r.String() != "v1" {
		t.Errorf("by tag: %+v, %v", r, err)
	}
	for s, code := range map[string]Code{
		"sha256:abc":                         CodeDigestInvalid,
		"v1:2":                               CodeDigestInvalid,
		":":                                  CodeDigestInvalid,
		"md5:" + strings.Repeat("0", 32):     CodeDigestInvalid,
		"-v1":                                CodeManifestInvalid,
		"":                                   CodeManifestInvalid,
		"../v1":                              CodeManifestInvalid,
		"sha256-" + strings.Repeat("a", 200): CodeManifestInvalid,
	} {
		r, err := ParseReference(s)
		if err == nil {
			t.Errorf("ParseReference(%q) = %+v", s, r)
			continue
		}
		wantCode(t, err, code)
	}
}

func FuzzReference(f *testing.F) {
	for _, s := range []string{"", "latest", ".a", "v1.0-rc_1", "sha256:", "sha512:00", DigestBytes(SHA256, nil).String(), DigestBytes(SHA512, nil).String(), "a:b:c", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if want := digestGrammar.MatchString(s) || tagGrammar.MatchString(s); want != (err == nil) {
			t.Fatalf("ParseReference(%q): %v, the grammar says %v", s, err, want)
		}
		if err != nil {
			if r != (Reference{}) {
				t.Fatalf("ParseReference(%q) failed and returned %+v", s, r)
			}
			if strings.Contains(s, ":") {
				wantCode(t, err, CodeDigestInvalid)
			} else {
				wantCode(t, err, CodeManifestInvalid)
			}
			return
		}
		if r.String() != s {
			t.Fatalf("ParseReference(%q) prints as %q", s, r)
		}
		if r.IsDigest() == (r.Tag != "") {
			t.Fatalf("ParseReference(%q) = %+v: it must be one of digest and tag", s, r)
		}
	})
}

func TestErrorStatus(t *testing.T) {
	// spec.md#error-codes and the status codes of spec.md#endpoints.
	for code, status := range map[Code]int{
		CodeBlobUnknown: 404, CodeBlobUploadInvalid: 400, CodeBlobUploadUnknown: 404, CodeDigestInvalid: 400,
		CodeManifestBlobUnknown: 400, CodeManifestInvalid: 400, CodeManifestUnknown: 404, CodeNameInvalid: 400,
		CodeNameUnknown: 404, CodeSizeInvalid: 400, CodeUnauthorized: 401, CodeDenied: 403, CodeUnsupported: 405,
		CodeTooManyRequests: 429, CodeUnknown: 500, Code("ELSE"): 500,
	} {
		if got := Errorf(code, "x").HTTPStatus(); got != status {
			t.Errorf("%s is answered with %d, want %d", code, got, status)
		}
	}
	plain := Errorf(CodeUnknown, "disk %d", 1)
	full := plain.WithStatus(http.StatusInsufficientStorage).WithDetail("d")
	if full.HTTPStatus() != 507 || full.Detail != "d" || full.Error() != "UNKNOWN: disk 1" {
		t.Errorf("%+v", full)
	}
	if plain.Status != 0 || plain.Detail != nil {
		t.Errorf("WithStatus and WithDetail changed the original: %+v", plain)
	}
}

func TestTagAt(t *testing.T) {
	for tag, want := range map[Tag]string{
		"latest.at-20261231T120000Z":                           "latest 2026-12-31T12:00:00Z",
		"a.at-20240229T235959Z":                                "a 2024-02-29T23:59:59Z",
		"1.at-20260101T000000Z.at-20261231T120000Z":            "1.at-20260101T000000Z 2026-12-31T12:00:00Z",
		"latest.at-20250229T120000Z":                           "",
		"latest.at-20261231T240000Z":                           "",
		"latest.at-20261231t120000z":                           "",
		"latest.at-20261231T120000":                            "",
		"latest.at-20261231T120000.5Z":                         "",
		"latest.at-20261231T120000+":                           "",
		"latest-at-20261231T120000Z":                           "",
		"latest.at-2026-12-31T12:00Z":                          "",
		".at-20261231T120000Z":                                 "",
		"latest":                                               "",
		"":                                                     "",
		"latest.at-20261231T120000Z-1":                         "",
		Tag(strings.Repeat("a", 108)) + ".at-20261231T120000Z": strings.Repeat("a", 108) + " 2026-12-31T12:00:00Z",
	} {
		was, at, ok := tag.At()
		got := ""
		if ok {
			got = string(was) + " " + at.Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("%q stands for %q, want %q", tag, got, want)
		}
	}
}

func FuzzTagAt(f *testing.F) {
	for _, s := range []string{"latest.at-20261231T120000Z", "a.at-99991231T235960Z", "latest", ".at-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tag, err := ParseTag(s)
		if err != nil {
			return
		}
		was, at, ok := tag.At()
		if !ok {
			return
		}
		if again := string(was) + at.UTC().Format(".at-20060102T150405Z"); again != s {
			t.Fatalf("%q is read as %q", s, again)
		}
		if _, err := ParseTag(string(was)); err != nil {
			t.Fatalf("%q stands for %q, which is no tag", s, was)
		}
	})
}
