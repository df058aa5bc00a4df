package deploy

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// block returns the first fenced block of docs/scale-out.md in a language that has a text.
func block(t *testing.T, language, text string) string {
	t.Helper()
	_, rest, _ := strings.Cut(read(t, filepath.Join(harness.Root(), "docs", "scale-out.md")), "\n")
	for rest != "" {
		_, after, ok := strings.Cut(rest, "\n```"+language+"\n")
		if !ok {
			break
		}
		body, next, _ := strings.Cut(after, "\n```\n")
		if strings.Contains(body, text) {
			return body + "\n"
		}
		rest = "\n" + next
	}
	t.Fatalf("docs/scale-out.md has no %s with %q", language, text)
	return ""
}

// The file that is shown is one that berth accepts.
func TestDocsConfiguration(t *testing.T) {
	t.Parallel()
	text, dir := block(t, "yaml", "trusted_proxies"), t.TempDir()
	for name, content := range map[string]string{
		"database-url": "postgres://user:password@host:5432/berth", "s3-access-key": "key", "s3-secret-key": "secret",
	} {
		if !strings.Contains(text, "file:/etc/berth/"+name) {
			t.Errorf("the file has no %s", name)
		}
		write(t, filepath.Join(dir, name), content)
	}
	// Who serves beyond the machine says so.
	write(t, filepath.Join(dir, "berth.yaml"), "insecure_open: true\n"+strings.ReplaceAll(text, "file:/etc/berth/", "file:"+dir+"/"))
	checkConfig(t, filepath.Join(dir, "berth.yaml"))
}

// The command that installs the chart renders it.
func TestDocsHelmInstall(t *testing.T) {
	t.Parallel()
	_, command, ok := strings.Cut(strings.ReplaceAll(block(t, "sh", "helm install"), "\\\n", " "), "helm install ")
	if !ok {
		t.Fatal("no helm install")
	}
	command, _, _ = strings.Cut(command, "\n")
	words := strings.Fields(command)
	words[1] = chart()
	c, args := helm(t, "template", words...)
	all := decode(t, c.Run(args...))
	if v := volumeNamed(t, all, "database"); v.Secret.SecretName != "registry-database" || v.Secret.Items[0].Key != "url" {
		t.Errorf("the Secret of the database is %+v, not the one that is made before", v.Secret)
	}
	if v := volumeNamed(t, all, "s3"); v.Secret.SecretName != "registry-s3" || v.Secret.Items[0].Key != "access_key_id" {
		t.Errorf("the Secret of the bucket is %+v, not the one that is made before", v.Secret)
	}
}
