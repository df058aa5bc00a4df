package cluster

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// host is a network namespace with a line to this machine.
type host struct {
	t           *testing.T
	name        string
	here, there string // addresses of the ends of the line
}

func newHost(t *testing.T) *host {
	t.Helper()
	harness.NeedRoot(t)
	harness.Need(t, "ip")
	harness.Need(t, "iptables")
	n := rand.IntN(250)
	h := &host{t: t, name: fmt.Sprint("berth-", os.Getpid(), "-", n), here: fmt.Sprintf("10.213.%d.1", n), there: fmt.Sprintf("10.213.%d.2", n)}
	link := fmt.Sprint("berth", n, "a")
	h.run("ip", "netns", "add", h.name)
	t.Cleanup(func() { h.run("ip", "netns", "del", h.name) })
	h.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", h.name)
	h.run("ip", "addr", "add", h.here+"/30", "dev", link)
	h.run("ip", "link", "set", link, "up")
	h.inside("ip", "addr", "add", h.there+"/30", "dev", "eth0")
	h.inside("ip", "link", "set", "eth0", "up")
	h.inside("ip", "link", "set", "lo", "up")
	return h
}

func (h *host) run(args ...string) {
	h.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		h.t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

func (h *host) inside(args ...string) {
	h.t.Helper()
	h.run(append([]string{"ip", "netns", "exec", h.name}, args...)...)
}

// lose has packets to a port vanish, as they do in a network that is broken, or mends that.
func (h *host) lose(port string, broken bool) {
	h.t.Helper()
	verb := "-D"
	if broken {
		verb = "-I"
	}
	h.inside("iptables", verb, "OUTPUT", "-p", "tcp", "--dport", port, "-j", "DROP")
}

// reach makes a server of this machine's loopback address reachable from the host, at the same port.
func (h *host) reach(port string) (addr string) {
	h.t.Helper()
	addr = net.JoinHostPort(h.here, port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer from.Close()
				to, err := net.Dial("tcp", "127.0.0.1:"+port)
				if err != nil {
					return
				}
				defer to.Close()
				go func() {
					io.Copy(to, from)
					to.Close()
				}()
				io.Copy(from, to)
			}()
		}
	}()
	return addr
}

// A node that is cut off from the database, while the others are not, answers 503: never what was true before. The balancer
// asks another node instead.
func TestNodeCutOffFromDatabase(t *testing.T) {
	t.Parallel()
	database, bucket := service.Postgres(t), service.S3(t)
	c := start(t, options{database: database, bucket: bucket})
	h := newHost(t)
	db, err := url.Parse(database.URL)
	if err != nil {
		t.Fatal(err)
	}
	port := db.Port()
	db.Host = h.reach(port)
	endpoint, err := url.Parse(bucket.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	endpoint.Host = h.reach(endpoint.Port())

	dir, err := os.MkdirTemp("", "berth-partition-")
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort(h.there, "5000")
	api := newAPI(t, "http://"+addr)
	stop := harness.StartDaemon(t, dir, func() bool {
		resp, err := api.Try(t.Context(), "GET", "/readyz", nil)
		return err == nil && resp.StatusCode == http.StatusOK
	}, harness.Need(t, "ip"), "netns", "exec", h.name, "env",
		"BERTH_DATABASE="+db.String(), "BERTH_STORAGE_S3_ENDPOINT="+endpoint.String(), "BERTH_DATABASE_POOL_TIMEOUT=1s", "BERTH_INSECURE_OPEN=true",
		harness.Binary(t), "serve", "--config", c.config, "--listen", addr)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	balanced := newAPI(t, harness.NewBalancer(t, addr, c.nodes[0].Addr).URL)

	rng := rand.New(rand.NewPCG(15, 16))
	mediaType := harness.Header{"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
	b := makeContent(17, 70_000)
	before, after := newImage(rng, name("cut"), "1", b), newImage(rng, name("cut"), "1", b)
	path := "/v2/" + name("cut") + "/"
	c.at(0).Expect(http.StatusCreated, "POST", path+"blobs/uploads/?digest="+b.digest.String(), b.bytes())
	c.at(0).Expect(http.StatusCreated, "PUT", path+"manifests/1", before.manifest, mediaType)
	reads := []string{"manifests/1", "manifests/" + before.digest.String(), "blobs/" + b.digest.String(), "tags/list"}
	for _, read := range reads { // what could be kept
		api.Expect(http.StatusOK, "GET", path+read, nil)
	}

	h.lose(port, true)
	c.at(1).Expect(http.StatusCreated, "PUT", path+"manifests/1", after.manifest, mediaType)
	c.at(1).Expect(http.StatusAccepted, "DELETE", path+"manifests/"+before.digest.String(), nil)
	for range 2 {
		for _, read := range reads {
			unavailable(t, "GET "+read, api.Do("GET", path+read, nil))
		}
		unavailable(t, "PUT of a manifest", api.Do("PUT", path+"manifests/1", before.manifest, mediaType))
		unavailable(t, "DELETE of a tag", api.Do("DELETE", path+"manifests/1", nil))
		unavailable(t, "mount", api.Do("POST", path+"blobs/uploads/?from="+name("cut")+"&mount="+b.digest.String(), nil))
		unavailable(t, "push", api.Do("POST", path+"blobs/uploads/?digest="+b.digest.String(), b.bytes()))
	}
	if resp := api.Do("GET", "/readyz", nil); resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(resp.Bytes), `"database"`) {
		t.Errorf("/readyz: %d, %s", resp.StatusCode, resp.Bytes)
	}
	api.Expect(http.StatusOK, "GET", "/livez", nil)
	for range 10 {
		if resp := balanced.Expect(http.StatusOK, "GET", path+"manifests/1", nil); !slices.Equal(resp.Bytes, after.manifest) {
			t.Error("the balancer returns the manifest of before")
		}
	}

	h.lose(port, false)
	wait(t, "the node is ready again", func() bool { return api.Do("GET", "/readyz", nil).StatusCode == http.StatusOK })
	if resp := api.Expect(http.StatusOK, "GET", path+"manifests/1", nil); !slices.Equal(resp.Bytes, after.manifest) {
		t.Error("the node still has the manifest of before")
	}
	api.Expect(http.StatusNotFound, "GET", path+"manifests/"+before.digest.String(), nil)
	c.verify([]image{after})
	c.fsck("--deep")
}
