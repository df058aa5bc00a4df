package main

import "testing"

func TestParseReference(t *testing.T) {
	const d = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for s, want := range map[string][4]string{
		"app":                            {"default:5000", "app", "", ""},
		"app:1.0":                        {"default:5000", "app", "1.0", ""},
		"team/app:1.0":                   {"default:5000", "team/app", "1.0", ""},
		"a/b/c/d":                        {"default:5000", "a/b/c/d", "", ""},
		"app@" + d:                       {"default:5000", "app", "", d},
		"app:1.0@" + d:                   {"default:5000", "app", "1.0", d},
		"localhost/app":                  {"localhost", "app", "", ""},
		"localhost:5000/app:1":           {"localhost:5000", "app", "1", ""},
		"host:5000/a/b@" + d:             {"host:5000", "a/b", "", d},
		"registry.example.com/a:1":       {"registry.example.com", "a", "1", ""},
		"[::1]:5000/a:1":                 {"[::1]:5000", "a", "1", ""},
		"docker.io/library/alpine":       {"docker.io", "library/alpine", "", ""},
		"localhost":                      {"default:5000", "localhost", "", ""},
		"app.with.dots":                  {"default:5000", "app.with.dots", "", ""},
		"registry.example.com/a:1@" + d:  {"registry.example.com", "a", "1", d},
		"127.0.0.1:5000/library/nginx:1": {"127.0.0.1:5000", "library/nginx", "1", ""},
	} {
		ref, err := parseReference(s, "default:5000")
		got := [4]string{ref.host, string(ref.name), string(ref.tag), ref.digest.String()}
		if err != nil || got != want {
			t.Errorf("parseReference(%q) = %q, %v, expected %q", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", ":", "@", "app:", "app@", ":1", "/app", "app/", "host:5000/", "App", "a//b", "app:1:2", "app:-1", "app@" + d + "@" + d,
		"app@md5:d41d8cd98f00b204e9800998ecf8427e", "http://host/app", "docker.io/alpine", "host:5000/../app", "a b",
	} {
		if ref, err := parseReference(s, "default:5000"); err == nil {
			t.Errorf("parseReference(%q) = %v, expected an error", s, ref)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("registry.example.com:5000/team/app:1.0@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add("[::1]:5000/a:1")
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := parseReference(s, "default:5000")
		if err != nil {
			return
		}
		text := ref.repository()
		if ref.tag != "" {
			text += ":" + string(ref.tag)
		}
		if !ref.digest.IsZero() {
			text += "@" + ref.digest.String()
		}
		if again, err := parseReference(text, "other"); err != nil || again != ref {
			t.Errorf("%q is read as %v, which is read as %v, %v", s, ref, again, err)
		}
	})
}
