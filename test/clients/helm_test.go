package clients

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// chart writes a small chart and packs it.
func chart(t *testing.T, c *harness.Client, name, version string) string {
	t.Helper()
	dir := filepath.Join(c.Home, "charts", version, name)
	if err := os.MkdirAll(filepath.Join(dir, "templates"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"Chart.yaml":               "apiVersion: v2\nname: " + name + "\nversion: " + version + "\ndescription: version " + version + "\n",
		"values.yaml":              "greeting: hello\n",
		"templates/configmap.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\ndata:\n  greeting: {{ .Values.greeting }} from {{ .Chart.Version }}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c.Run("package", dir, "--destination", c.Home)
	return filepath.Join(c.Home, name+"-"+version+".tgz")
}

func TestHelmPushPullTemplate(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "helm")
	repo := "oci://" + host(t) + "/helm/charts"
	for _, version := range []string{"1.0.0", "1.2.0", "1.10.0", "2.0.0-rc.1", "1.3.0+build.7"} {
		file := chart(t, c, "greeter", version)
		harness.Contains(t, c.RunAll("push", file, repo, "--plain-http"), "Pushed: "+host(t)+"/helm/charts/greeter:"+strings.ReplaceAll(version, "+", "_"))
	}
	want := []string{"1.0.0", "1.10.0", "1.2.0", "1.3.0_build.7", "2.0.0-rc.1"}
	if got := api(t).Tags("helm/charts/greeter"); !slices.Equal(got, want) {
		t.Errorf("tags are %q, expected %q", got, want)
	}
	// Without a version helm reads the tags and takes the newest.
	harness.Contains(t, c.Run("show", "chart", repo+"/greeter", "--plain-http"), "version: 1.10.0")
	harness.Contains(t, c.Run("show", "chart", repo+"/greeter", "--version", "~1.2", "--plain-http"), "version: 1.2.0")
	harness.Contains(t, c.Run("template", "my", repo+"/greeter", "--version", "1.3.0+build.7", "--plain-http"), "greeting: hello from 1.3.0+build.7")
	digest := digestOf(t, "helm/charts/greeter", "1.0.0")
	harness.Contains(t, c.Run("show", "chart", repo+"/greeter@"+digest, "--plain-http"), "version: 1.0.0")
	c.Run("pull", repo+"/greeter", "--version", "1.2.0", "--plain-http", "--untar", "--destination", filepath.Join(c.Home, "pulled"))
	text, err := os.ReadFile(filepath.Join(c.Home, "pulled", "greeter", "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	harness.Contains(t, string(text), "version 1.2.0")
	// The same chart again changes nothing.
	c.Run("push", filepath.Join(c.Home, "greeter-1.0.0.tgz"), repo, "--plain-http")
	wantStatuses(t, seen(t, "helm/charts/greeter"), 200, 201, 202, 404)
}

func TestHelmDependencyFromRegistry(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "helm")
	repo := "oci://" + host(t) + "/helm/dependencies"
	c.Run("push", chart(t, c, "base", "0.1.0"), repo, "--plain-http")
	chart(t, c, "app", "0.2.0")
	dir := filepath.Join(c.Home, "charts", "0.2.0", "app")
	yaml, err := os.ReadFile(filepath.Join(dir, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	yaml = append(yaml, "dependencies:\n- name: base\n  version: 0.1.0\n  repository: "+repo+"\n"...)
	if err := os.WriteFile(filepath.Join(dir, "Chart.yaml"), yaml, 0o644); err != nil {
		t.Fatal(err)
	}
	c.Run("dependency", "update", dir, "--plain-http")
	harness.Contains(t, c.Run("template", "my", dir), "hello from 0.1.0", "hello from 0.2.0")
}

func TestHelmLoginToOpenRegistry(t *testing.T) {
	t.Parallel()
	c := harness.NewClient(t, "helm")
	harness.Contains(t, func() string {
		c.RunInput("any", "registry", "login", host(t), "--username", "anyone", "--password-stdin", "--plain-http")
		return c.RunAll("push", chart(t, c, "after-login", "1.0.0"), "oci://"+host(t)+"/helm", "--plain-http")
	}(), "Pushed:")
	c.Run("pull", "oci://"+host(t)+"/helm/after-login", "--plain-http")
	c.Run("registry", "logout", host(t))
}
