package clients

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/test/harness"
)

// startNginx starts nginx with TLS and HTTP/2 in front of the server at addr, set up
// as nginx's users do, and returns its address.
func startNginx(t *testing.T, addr string, cert *harness.Cert) string {
	t.Helper()
	path := harness.Need(t, "nginx")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	front := l.Addr().String()
	l.Close()
	dir, err := os.MkdirTemp("", "berth-nginx-")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`
daemon off;
worker_processes 1;
pid %[1]s/pid;
error_log stderr warn;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s ssl http2;
    ssl_certificate %[3]s;
    ssl_certificate_key %[4]s;
    client_max_body_size 0;
    location / {
      proxy_pass http://%[5]s;
      proxy_http_version 1.1;
      proxy_request_buffering off;
      proxy_buffering off;
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
    }
  }
}
`, dir, front, cert.CertFile, cert.KeyFile, addr)
	if os.Geteuid() == 0 {
		text = "user root;\n" + text // nginx's own user has no access to the directory
	}
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ready := func() bool {
		c, err := net.DialTimeout("tcp", front, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	stop := harness.StartDaemon(t, dir, ready, path, "-c", config, "-p", dir)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return front
}

func TestNginxWithTLSBeforeDockerAndCrane(t *testing.T) {
	t.Parallel()
	cert := harness.NewCert(t)
	s := harness.Start(t, harness.Settings{Env: []string{"BERTH_TRUSTED_PROXIES=127.0.0.1"}})
	front := startNginx(t, s.Addr, cert)

	crane := harness.NewClient(t, "crane")
	crane.Env = []string{"SSL_CERT_FILE=" + cert.CertFile}
	image := hello(t, "behind nginx")
	crane.Run("push", image.Layout(t, "1"), front+"/nginx/crane:1")
	crane.Run("validate", "--remote", front+"/nginx/crane:1")

	// An upload that goes on through the proxy stays on the proxy's address.
	api := &harness.API{T: t, Base: "https://" + front, Client: cert.HTTP()}
	resp := api.Expect(http.StatusAccepted, "POST", "/v2/nginx/location/blobs/uploads/", []byte{})
	if l := resp.Header.Get("Location"); strings.Contains(l, "://") && !strings.HasPrefix(l, "https://"+front+"/") {
		t.Errorf("Location %q leaves the proxy", l)
	}

	// Docker takes any certificate of a registry in 127.0.0.0/8.
	d := newDockerFor(t, front)
	ref := front + "/nginx/docker:1"
	d.build(ref, "behind nginx")
	d.Run("push", ref)
	d.Run("image", "rm", ref)
	d.Run("pull", ref)
	if out := d.runImage(ref); out != "behind nginx" {
		t.Errorf("the container printed %q", out)
	}
}
