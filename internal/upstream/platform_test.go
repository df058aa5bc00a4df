package upstream

import (
	"testing"

	"github.com/berthregistry/berth/internal/oci"
)

func TestPlatforms(t *testing.T) {
	for s, want := range map[string]oci.Platform{
		"linux/amd64":  {OS: "linux", Architecture: "amd64"},
		"linux/arm/v7": {OS: "linux", Architecture: "arm", Variant: "v7"},
	} {
		got, err := ParsePlatform(s)
		if err != nil || got != want || FormatPlatform(got) != s {
			t.Errorf("ParsePlatform(%q) = %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x"} {
		if _, err := ParsePlatform(s); err == nil {
			t.Errorf("ParsePlatform(%q): expected an error", s)
		}
	}
	child := func(arch, variant string) oci.Descriptor {
		return oci.Descriptor{
			Digest:   oci.DigestBytes(oci.SHA256, []byte(arch+variant)),
			Platform: &oci.Platform{OS: "linux", Architecture: arch, Variant: variant},
		}
	}
	children := []oci.Descriptor{child("arm", "v5"), child("arm", "v7"), child("arm64", ""), {}, child("amd64", "v3"), child("amd64", "")}
	for s, want := range map[string]int{
		"linux/arm": 0, "linux/arm/v7": 1, "linux/arm/v6": -1, "linux/arm64": 2, "linux/arm64/v8": 2,
		"linux/amd64": 5, "linux/amd64/v3": 4, "windows/amd64": -1,
	} {
		p, _ := ParsePlatform(s)
		got, ok := selectPlatform(children, p)
		if ok != (want >= 0) || ok && got.Digest != children[want].Digest {
			t.Errorf("selectPlatform(%s) = %v, %t, expected child %d", s, got.Platform, ok, want)
		}
	}
}
