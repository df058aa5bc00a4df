package policy

import (
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/access"
	"github.com/berthregistry/berth/internal/oci"
)

func TestTags(t *testing.T) {
	for _, test := range []struct{ patterns, match, differ string }{
		{"", "latest 1.0", ""},
		{"*", "latest 1.0", ""},
		{"v1.*", "v1.0 v1.", "v1 v2.0 xv1.0"},
		{"!latest", "1.0 latest2", "latest"},
		{"{dev,test}-*", "dev-1 test-", "prod-1"},
		{"regex:release-[0-9]{8}", "release-20261121", "release-2026112 release-20261121x xrelease-20261121"},
		{"regex:a|b", "a b", "ab xa"},
		{"semver", "1.2.3 v1.2.3 1.2.3-rc.1 v0.0.0", "1.2 v1 latest 01.2.3 V1.2.3 vv1.2.3 1.2.3_4"},
		{"semver:>=1.2,<2", "1.2.0 v1.9.9", "2.0.0 1.1.9 1.5.0-rc.1 latest"},
		{"semver:>=1.2-0", "1.5.0-rc.1 1.5.0", "1.1.0"},
		{"semver !1.2.3", "1.2.4 v1.2.3", "1.2.3 latest"},
		{"semver !regex:.*-.*", "1.2.3", "1.2.3-rc.1"},
		{"semver stable", "1.2.3 stable", "edge"},
	} {
		tags, err := ParseTags(strings.Fields(test.patterns))
		if err != nil {
			t.Errorf("%q: %v", test.patterns, err)
			continue
		}
		for _, tag := range strings.Fields(test.match) {
			if !tags.Match(oci.Tag(tag)) {
				t.Errorf("%q does not match %q", test.patterns, tag)
			}
		}
		for _, tag := range strings.Fields(test.differ) {
			if tags.Match(oci.Tag(tag)) {
				t.Errorf("%q matches %q", test.patterns, tag)
			}
		}
		b, err := tags.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var again Tags
		if err := again.UnmarshalText(b); err != nil || again.String() != tags.String() {
			t.Errorf("%q becomes %q in the database: %v", tags, again, err)
		}
	}
	for _, bad := range []string{"", "!", "a b", "[", "a/b", "regex:(", "semver:abc", "semver:", "glob:x", strings.Repeat("x", 513)} {
		if _, err := ParseTags([]string{bad}); err == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
	if _, err := ParseTags(make([]string, 51)); err == nil {
		t.Error("there can be any number of patterns")
	}
}

func FuzzTags(f *testing.F) {
	for _, s := range []string{"v1.*", "regex:a+", "semver", "semver:>=1 <2", "!x", "{a,b}*"} {
		f.Add(s, "v1.0.0")
	}
	f.Fuzz(func(t *testing.T, pattern, tag string) {
		tags, err := ParseTags([]string{pattern})
		if err != nil {
			return
		}
		b, err := tags.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var again Tags
		if err := again.UnmarshalText(b); err != nil {
			t.Fatal(err)
		}
		if parsed, err := oci.ParseTag(tag); err == nil && tags.Match(parsed) != again.Match(parsed) {
			t.Fatalf("%q matches %q differently once it has been stored", pattern, tag)
		}
	})
}

func TestCheckTag(t *testing.T) {
	tags, err := ParseTags([]string{"v*"})
	if err != nil {
		t.Fatal(err)
	}
	repositories, err := access.ParsePatterns("team/** !team/dev")
	if err != nil {
		t.Fatal(err)
	}
	set := Set{Protections: []Protection{{ID: 7, Organization: "team", Repositories: repositories, Tags: tags}}}
	one, two := oci.DigestBytes(oci.SHA256, []byte("1")), oci.DigestBytes(oci.SHA256, []byte("2"))
	for _, test := range []struct {
		repository    oci.Repository
		tag           oci.Tag
		current, next oci.Digest
		refused       bool
	}{
		{"team/app", "v1", oci.Digest{}, one, false},
		{"team/app", "v1", one, one, false},
		{"team/app", "v1", one, two, true},
		{"team/app", "v1", one, oci.Digest{}, true},
		{"team/app", "latest", one, two, false},
		{"team/dev", "v1", one, two, false},
	} {
		err := set.CheckTag(test.repository, test.tag, test.current, test.next)
		if (err != nil) != test.refused {
			t.Errorf("%+v: %v", test, err)
		}
		if err != nil && !strings.Contains(err.Error(), "rule 7 (v* in team/** !team/dev)") {
			t.Errorf("the error does not name the rule: %v", err)
		}
	}
}
