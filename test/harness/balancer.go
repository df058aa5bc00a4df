package harness

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Balancer is a real nginx with the configuration of deploy/compose, before nodes on addresses of their own.
type Balancer struct {
	Addr string // host:port
	URL  string // http:// and Addr

	t     testing.TB
	dir   string
	nodes []string // host:port
	down  []bool
}

// NewBalancer starts nginx before the nodes. It ends with the test.
func NewBalancer(t testing.TB, nodes ...string) *Balancer {
	t.Helper()
	path := Need(t, "nginx")
	dir, err := os.MkdirTemp("", "berth-nginx-")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	b := &Balancer{Addr: addr, URL: "http://" + addr, t: t, dir: dir, nodes: nodes, down: make([]bool, len(nodes))}
	text, err := os.ReadFile(filepath.Join(Root(), "deploy", "compose", "nginx", "nginx.conf"))
	if err != nil {
		t.Fatal(err)
	}
	config := string(text)
	for _, change := range []struct {
		old, new string
		count    int
	}{
		{"listen 8080;", "listen " + addr + ";", 1},
		{"/tmp/", dir + "/", 6},                              // its own files
		{"worker_processes auto;", "worker_processes 2;", 1}, // two of them share what they know of the nodes
	} {
		if n := strings.Count(config, change.old); n != change.count {
			t.Fatalf("deploy/compose/nginx/nginx.conf has %q %d times, expected %d", change.old, n, change.count)
		}
		config = strings.ReplaceAll(config, change.old, change.new)
	}
	config = "daemon off;\n" + config
	if os.Geteuid() == 0 {
		config = "user root;\n" + config // nginx's own user has no access to the directory
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b.writeNodes()
	ready := func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	stop := StartDaemon(t, dir, ready, path, "-c", filepath.Join(dir, "nginx.conf"), "-p", dir)
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("end of nginx's log:\n%s", text[max(0, len(text)-4000):])
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// writeNodes writes nodes.conf with the parameters that deploy/compose gives to its nodes.
func (b *Balancer) writeNodes() {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(Root(), "deploy", "compose", "nginx", "nodes.conf"))
	if err != nil {
		b.t.Fatal(err)
	}
	var parameters string
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "server "); ok {
			_, parameters, _ = strings.Cut(strings.TrimRight(rest, ";\n"), " ")
		}
	}
	var nodes strings.Builder
	for i, addr := range b.nodes {
		down := ""
		if b.down[i] {
			down = " down"
		}
		fmt.Fprintf(&nodes, "server %s %s%s;\n", addr, parameters, down)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "nodes.conf"), []byte(nodes.String()), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// InService takes a node into service or out of it. When it returns, nginx sends no new request to a node
// that is out of service, and none that it had accepted before is under way.
func (b *Balancer) InService(node int, in bool) {
	b.t.Helper()
	b.down[node] = !in
	b.writeNodes()
	pid, err := os.ReadFile(filepath.Join(b.dir, "nginx.pid"))
	if err != nil {
		b.t.Fatal(err)
	}
	master, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		b.t.Fatal(err)
	}
	old := children(master)
	if err := syscall.Kill(master, syscall.SIGHUP); err != nil {
		b.t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		gone, fresh := true, false
		for child := range children(master) {
			if old[child] {
				gone = false
			} else {
				fresh = true
			}
		}
		if gone && fresh {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatal("nginx's old workers did not end within a minute")
		}
	}
}

// children returns the processes that a process has started.
func children(of int) map[int]bool {
	found := make(map[int]bool)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// pid (name) state ppid ...; the name may hold anything.
		_, rest, _ := strings.Cut(string(text[max(0, strings.LastIndex(string(text), ")")):]), " ")
		fields := strings.Fields(rest)
		if len(fields) > 1 && fields[1] == strconv.Itoa(of) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			if err == nil {
				found[pid] = true
			}
		}
	}
	return found
}
