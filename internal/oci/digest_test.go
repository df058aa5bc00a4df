package oci

import (
	"encoding"
	"encoding/json"
	"strings"
	"testing"
)

func TestParseDigest(t *testing.T) {
	hex64, hex128 := strings.Repeat("0123456789abcdef", 4), strings.Repeat("0123456789abcdef", 8)
	for _, s := range []string{"sha256:" + hex64, "sha512:" + hex128} {
		d, err := ParseDigest(s)
		if err != nil || d.String() != s || string(d.Algorithm())+":"+d.Encoded() != s || d.IsZero() {
			t.Errorf("ParseDigest(%q) = %v, %v", s, d, err)
		}
	}
	for _, s := range []string{
		"", ":", "sha256", "sha256:", "sha512:", hex64, ":" + hex64, "sha256:" + hex64[1:], "sha256:" + hex64 + "0",
		"sha512:" + hex64, "sha256:" + hex128, "SHA256:" + hex64, "sha256:" + strings.ToUpper(hex64),
		"sha256:" + hex64[1:] + "g", "sha256:" + hex64[1:] + "/", "sha256:../" + hex64[3:], "sha256:" + hex64[1:] + "\n",
		"sha256:" + hex64 + ":", "sha384:" + hex128[:96], "md5:" + hex64[:32], "blake3:" + hex64, "sha256+b64:" + hex64, " sha256:" + hex64,
		"sha256: " + hex64[1:], "sha256:" + strings.Repeat("é", 32), strings.Repeat("a", 1<<20), "sha256:" + strings.Repeat("a", 1<<20),
	} {
		d, err := ParseDigest(s)
		if err == nil || !d.IsZero() {
			t.Errorf("ParseDigest(%.80q) = %v, %v", s, d, err)
			continue
		}
		wantCode(t, err, CodeDigestInvalid)
	}
}

func TestParseAlgorithm(t *testing.T) {
	for _, a := range []Algorithm{SHA256, SHA512} {
		if got, err := ParseAlgorithm(string(a)); err != nil || got != a {
			t.Errorf("ParseAlgorithm(%q) = %q, %v", a, got, err)
		}
	}
	for _, s := range []string{"", "SHA256", "sha384", "md5", "sha256 ", strings.Repeat("x", 1<<20)} {
		_, err := ParseAlgorithm(s)
		wantCode(t, err, CodeDigestInvalid)
	}
}

// Known answers of FIPS 180-4, so that a mix-up of the algorithms shows.
func TestDigestBytes(t *testing.T) {
	for a, want := range map[Algorithm]string{
		SHA256: "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		SHA512: "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a" +
			"2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
	} {
		if got := DigestBytes(a, []byte("abc")); got.String() != want {
			t.Errorf("DigestBytes(%s) = %s, want %s", a, got, want)
		}
		h := a.New()
		h.Write([]byte("a"))
		state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		h = a.New()
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
			t.Fatal(err)
		}
		h.Write([]byte("bc"))
		if got := DigestOf(a, h); got.String() != want {
			t.Errorf("resumed %s is %s, want %s", a, got, want)
		}
		if d, err := ParseDigest(want); err != nil || d != DigestBytes(a, []byte("abc")) {
			t.Errorf("a parsed digest is not equal to the computed one: %v, %v", d, err)
		}
	}
}

func TestDigestText(t *testing.T) {
	in := struct{ D Digest }{DigestBytes(SHA256, nil)}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out := in
	out.D = Digest{}
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%s became %+v, %v", b, out, err)
	}
	if err := json.Unmarshal([]byte(`{"D":"sha256:00"}`), &out); err == nil || !out.D.IsZero() {
		t.Errorf("an invalid digest became %+v, %v", out, err)
	}
}

// The table of spec.md#referrers-tag-schema, as far as its algorithms are registered.
func TestReferrersTag(t *testing.T) {
	for digest, tag := range map[string]Tag{
		"sha256:" + strings.Repeat("a", 64):  Tag("sha256-" + strings.Repeat("a", 64)),
		"sha512:" + strings.Repeat("a", 128): Tag("sha512-" + strings.Repeat("a", 64)),
	} {
		d, err := ParseDigest(digest)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.ReferrersTag(); got != tag {
			t.Errorf("%s has the referrers tag %s, want %s", digest, got, tag)
		}
		if _, err := ParseTag(string(d.ReferrersTag())); err != nil {
			t.Error(err)
		}
	}
}
