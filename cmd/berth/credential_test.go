package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// call runs the program as somebody has called it and returns what it printed.
func call(t *testing.T, stdin string, called string, args ...string) (string, error) {
	t.Helper()
	root := newRootCommand()
	var out bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetArgs(arguments(called, args))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// noTokens leaves the process without any token.
func noTokens(t *testing.T) {
	for _, name := range []string{"BERTH_TOKEN", "BERTH_TOKEN_FILE", "BERTH_TOKEN_AUDIENCE", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"} {
		t.Setenv(name, "")
	}
}

func TestDockerCredentialHelper(t *testing.T) {
	noTokens(t)
	const helper = "/usr/local/bin/docker-credential-berth"
	out, err := call(t, "registry.example.com\n", helper, "get")
	if err == nil || out != "credentials not found in native keychain\n" {
		t.Errorf("%q, %v", out, err)
	}
	t.Setenv("BERTH_TOKEN", "eyJ")
	for _, server := range []string{"registry.example.com", "https://registry.example.com/v2/"} {
		out, err = call(t, server, helper, "get")
		var got struct{ ServerURL, Username, Secret string }
		if json.Unmarshal([]byte(out), &got) != nil || err != nil || got.ServerURL != server || got.Username != "token" || got.Secret != "eyJ" {
			t.Errorf("%q, %v", out, err)
		}
	}
	if out, err := call(t, "", helper, "list"); err != nil || out != "{}\n" {
		t.Errorf("%q, %v", out, err)
	}
	for _, verb := range []string{"store", "erase", "fly"} {
		if _, err := call(t, "{}", helper, verb); err == nil {
			t.Errorf("%s is taken", verb)
		}
	}
	if got := arguments("berth", []string{"get"}); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

// GitHub gives a job its token for the audience that is asked for.
func TestTokenOfGitHub(t *testing.T) {
	noTokens(t)
	refuse := false
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if refuse || r.Header.Get("Authorization") != "Bearer of-the-job" || r.URL.Query().Get("api-version") != "2.0" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if err := json.NewEncoder(w).Encode(map[string]string{"value": "for " + r.URL.Query().Get("audience")}); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", s.URL+"/token?api-version=2.0")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-job")
	if got, err := workloadToken(t.Context(), "registry.example.com:5000"); err != nil || got != "for registry.example.com:5000" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("BERTH_TOKEN_AUDIENCE", "berth")
	if got, err := workloadToken(t.Context(), "registry.example.com"); err != nil || got != "for berth" {
		t.Errorf("%q, %v", got, err)
	}
	refuse = true
	if _, err := workloadToken(t.Context(), "registry.example.com"); err == nil || strings.Contains(err.Error(), "of-the-job") {
		t.Errorf("%v", err)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("of the pod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BERTH_TOKEN_FILE", file)
	if got, err := workloadToken(t.Context(), "x"); err != nil || got != "of the pod" {
		t.Errorf("%q, %v", got, err)
	}
}

// The exchange of kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1.
func TestKubeletCredentialProvider(t *testing.T) {
	noTokens(t)
	request := `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"registry.example.com:5000/team/app:1.0","serviceAccountToken":"of the pod","serviceAccountAnnotations":{}}`
	out, err := call(t, request, "berth", "credential", "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","cacheDuration":"5m0s",
		"auth":{"registry.example.com:5000":{"username":"token","password":"of the pod"}}}`), &want); err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if !bytes.Equal(a, b) {
		t.Errorf("%s", out)
	}
	t.Setenv("BERTH_TOKEN", "of the node")
	out, err = call(t, strings.Replace(request, `"serviceAccountToken":"of the pod",`, "", 1), "berth", "credential", "kubelet", "--cache", "1m")
	if err != nil || !strings.Contains(out, "of the node") || !strings.Contains(out, `"1m0s"`) {
		t.Errorf("%s, %v", out, err)
	}
	for _, bad := range []string{"", "{}", strings.Replace(request, "/v1", "/v9", 1), strings.Replace(request, "registry.example.com:5000/team/app:1.0", "app", 1), strings.Replace(request, "Request", "Response", 1)} {
		if out, err := call(t, bad, "berth", "credential", "kubelet"); err == nil || out != "" {
			t.Errorf("%s gives %s", bad, out)
		}
	}
}
