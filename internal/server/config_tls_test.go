package server

import (
	"bytes"
	"strings"
	"testing"
)

func TestExposureIsRefused(t *testing.T) {
	for _, tt := range []struct {
		listen  string
		refused bool
	}{
		{"127.0.0.1:5000", false}, {"127.8.8.8:5000", false}, {"[::1]:5000", false}, {"[::ffff:127.0.0.1]:5000", false},
		{"unix:/run/berth.sock", false}, {"localhost:5000", false},
		{":5000", true}, {"0.0.0.0:5000", true}, {"[::]:5000", true}, {"192.0.2.1:5000", true}, {"[2001:db8::1]:5000", true}, {"[fe80::1%eth0]:5000", true},
	} {
		_, err := Load(Places{Flags: map[string]string{"listen": tt.listen}})
		if (err != nil) != tt.refused {
			t.Errorf("listen on %s: %v", tt.listen, err)
		}
		if err != nil {
			for _, say := range []string{"--listen: " + tt.listen, "127.0.0.1:5000", "--insecure-open", "BERTH_INSECURE_OPEN", "insecure_open"} {
				if !strings.Contains(err.Error(), say) {
					t.Errorf("the error %q does not say %q", err, say)
				}
			}
		}
		load(t, Places{Flags: map[string]string{"listen": tt.listen, "insecure_open": "true"}})
	}

	metrics := map[string]string{"metrics.listen": ":9000"}
	if _, err := Load(Places{Flags: metrics}); err == nil || !strings.Contains(err.Error(), "metrics.token") {
		t.Errorf("metrics open to everyone give %v", err)
	}
	load(t, Places{Flags: metrics, Env: []string{"BERTH_METRICS_TOKEN=x"}})
}

func TestTLSSettings(t *testing.T) {
	const files, hosts = "certificate: c, key: k", "hosts: [a.example.com], accept_terms: true"
	for text, want := range map[string]string{
		"tls: {certificate: c}":                                   "tls.key: the key of tls.certificate is needed",
		"tls: {key: k}":                                           "tls.certificate: the certificate of tls.key is needed",
		"tls: {more: [{certificate: c, key: k}]}":                 "tls.more: this has no effect without tls.certificate",
		"tls: {" + files + ", more: [{certificate: c, key: ''}]}": "berth.yaml:1: tls.more: item 1 needs both certificate and key",
		"tls: {" + files + ", more: [{certificate: c}]}":          `tls.more[0]: "key" is missing`,
		"tls: {client_ca: c}":                                     "tls.client_ca: this has no effect without tls.certificate or tls.acme.hosts",
		"tls: {redirect_listen: ':80'}":                           "tls.redirect_listen: this has no effect without tls.certificate or tls.acme.hosts",
		"tls: {" + files + ", client_certificate: required}":      "tls.client_certificate: this has no effect without tls.client_ca",
		"tls: {" + files + ", client_certificate: must}":          `tls.client_certificate: "must" must be optional or required`,
		"{external_url: 'http://a', tls: {" + files + "}}":        "external_url: http://a must begin with https:// because TLS is on",
		"tls: {certificat: c}":                                    "tls.certificat: there is no such setting; did you mean tls.certificate?",
		"tls: {acme: {email: a@b}}":                               "tls.acme.email: this has no effect without tls.acme.hosts",
		"tls: {acme: {hosts: [a.example.com]}}":                   "tls.acme.accept_terms: read the terms",
		"tls: {acme: {" + hosts + ", email: 'mailto:a@b'}}":       `tls.acme.email: "mailto:a@b" is not one e-mail address`,
		"tls: {acme: {" + hosts + ", eab_key: abcd}}":             "tls.acme.eab_key_id: the name of tls.acme.eab_key is needed",
		"tls: {acme: {" + hosts + ", eab_key_id: a}}":             "tls.acme.eab_key: the key of tls.acme.eab_key_id is needed",
		"tls: {acme: {" + hosts + ", eab_key_id: a, eab_key: ü}}": "tls.acme.eab_key: this is not base64",
		"tls: {acme: {" + hosts + ", directory: 'http://a/d'}}":   `tls.acme.directory: "http://a/d" is not the URL`,
		"tls: {acme: {hosts: ['*.example.com']}}":                 `tls.acme.hosts[0]: "*.example.com": name each host`,
		"tls: {acme: {hosts: [192.0.2.1]}}":                       `tls.acme.hosts[0]: "192.0.2.1" is an address`,
		"tls: {acme: {hosts: [registry]}}":                        `tls.acme.hosts[0]: "registry" is not the full name of a host`,
		"tls: {acme: {hosts: ['a.example.com:443']}}":             `tls.acme.hosts[0]: "a.example.com:443" is not the full name of a host`,
	} {
		_, err := Load(Places{File: writeConfig(t, text)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives\n%v\nwant\n%s", text, err, want)
		}
	}
	c := load(t, Places{File: writeConfig(t, "tls: {acme: {"+hosts+", eab_key_id: a, eab_key: 'c2Vjcm/+dA=='}}")})
	if key, err := c.TLS.ACME.eabKey(); err != nil || string(key) != "secr\x6f\xfet" {
		t.Errorf("the key is %q, %v", key, err)
	}
	var out bytes.Buffer
	if err := c.Print(&out); err != nil || strings.Contains(out.String(), "c2Vjcm") {
		t.Errorf("the key is printed, or %v", err)
	}
}

// TLS alone keeps nobody out; that each client must have a certificate does.
func TestExposureWithTLS(t *testing.T) {
	tls := map[string]string{"listen": ":5000", "tls.certificate": "c", "tls.key": "k", "tls.client_ca": "a"}
	_, err := Load(Places{Flags: tls})
	if err == nil || !strings.Contains(err.Error(), "there is no access control") || strings.Contains(err.Error(), "nor TLS") {
		t.Errorf("TLS without access control gives %v", err)
	}
	tls["tls.client_certificate"] = "required"
	load(t, Places{Flags: tls})
}
