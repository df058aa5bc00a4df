package upstream

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseChallenges(t *testing.T) {
	type params = map[string]string
	for _, test := range []struct {
		header string
		want   []challenge
	}{
		{`Basic realm="a registry"`, []challenge{{"basic", params{"realm": "a registry"}}}},
		{`Basic`, []challenge{{"basic", params{}}}},
		{
			`Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push"`,
			[]challenge{{"bearer", params{"realm": "https://auth.example.com/token", "service": "registry", "scope": "repository:a/b:pull,push"}}},
		},
		{`bearer REALM = "x" , Service=y`, []challenge{{"bearer", params{"realm": "x", "service": "y"}}}},
		{`Bearer realm="a\"b\\c"`, []challenge{{"bearer", params{"realm": `a"b\c`}}}},
		{`Basic realm="x", Bearer realm="y"`, []challenge{{"basic", params{"realm": "x"}}, {"bearer", params{"realm": "y"}}}},
		{`Negotiate, Bearer realm="y"`, []challenge{{"negotiate", params{}}, {"bearer", params{"realm": "y"}}}},
		{`Bearer realm=https://auth.example.com/token,service=x`, []challenge{{"bearer", params{"realm": "https://auth.example.com/token", "service": "x"}}}},
		{`Bearer realm="open`, []challenge{{"bearer", params{}}}},
		{`Bearer realm="open\`, []challenge{{"bearer", params{}}}},
		{`realm="x"`, nil},
		{`,, ,`, nil},
		{"", nil},
		{`"`, nil},
	} {
		if got := parseChallenges(test.header); !reflect.DeepEqual(got, test.want) {
			t.Errorf("parseChallenges(%q) = %v, expected %v", test.header, got, test.want)
		}
	}
}

func TestPickChallenge(t *testing.T) {
	for _, test := range []struct {
		headers []string
		want    string
	}{
		{[]string{`Basic realm="x"`, `Bearer realm="y"`}, "bearer"},
		{[]string{`Basic realm="x", Bearer realm="y"`}, "bearer"},
		{[]string{`Negotiate`, `Basic realm="x"`}, "basic"},
		{[]string{`Negotiate`}, ""},
		{nil, ""},
	} {
		got := ""
		if c := pickChallenge(test.headers); c != nil {
			got = c.scheme
		}
		if got != test.want {
			t.Errorf("pickChallenge(%q) = %q, expected %q", test.headers, got, test.want)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push"`)
	f.Add(`Negotiate, Basic realm=x, Bearer realm="a\"b"`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(s) {
			if c.scheme == "" || strings.ToLower(c.scheme) != c.scheme {
				t.Errorf("scheme %q", c.scheme)
			}
			for name, value := range c.params {
				if name == "" || len(value) > len(s) {
					t.Errorf("parameter %q=%q", name, value)
				}
			}
		}
	})
}
