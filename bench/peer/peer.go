//go:build linux

// Package peer builds, installs and runs the programs that the benchmark compares, each as a process of its own on loopback,
// and reads from the kernel what they cost.
//
// A process that was started is stopped again even if the benchmark itself is killed:
// the kernel sends it a signal when its parent dies.
package peer

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Kind is what a peer understands.
type Kind int

const (
	// Registry speaks the distribution protocol.
	Registry Kind = iota
	// ReadLimit serves files whose paths are those of the protocol.
	ReadLimit
	// WriteLimit stores the body of every PUT and answers nothing else.
	WriteLimit
)

// Names of the peers that the benchmark's goals speak of.
const (
	Berth        = "berth"
	Distribution = "registry"
	Nginx        = "nginx"
	Limit        = "limit"
)

// Peer is a program to compare.
type Peer struct {
	Name    string
	Kind    Kind
	Version string

	program string
	// command returns how to serve.
	command func(place) (args, env []string, err error)
	// orphaned is the signal that ends the process, and those that it started,
	// when the benchmark dies.
	orphaned syscall.Signal
}

// place is where a process serves.
type place struct {
	addr     netip.AddrPort
	profiles netip.AddrPort // where to serve profiles; zero for nowhere
	data     string         // the folder to store in
	conf     string         // a folder for configuration files
}

// All of them log errors and no requests.

func berth(program string) *Peer {
	return &Peer{
		Name: Berth, Kind: Registry, Version: "this tree", program: program, orphaned: syscall.SIGKILL,
		command: func(p place) (args, env []string, err error) {
			env = []string{"BERTH_LOG_LEVEL=error", "BERTH_LOG_ACCESS=false"}
			if p.profiles.IsValid() {
				env = append(env, "BERTH_METRICS_LISTEN="+p.profiles.String(), "BERTH_METRICS_PROFILES=true")
			}
			return []string{"serve", "--listen", p.addr.String(), "--data", p.data}, env, nil
		},
	}
}

func distribution(program string) *Peer {
	return &Peer{
		Name: Distribution, Kind: Registry, program: program, orphaned: syscall.SIGKILL,
		command: func(p place) (args, env []string, err error) {
			file, err := write(p.conf, "registry.yml", fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %s}
  cache: {blobdescriptor: inmemory}
  delete: {enabled: true}
catalog: {maxentries: 1000000}
http: {addr: %s}
`, strconv.Quote(p.data), strconv.Quote(p.addr.String())))
			return []string{"serve", file}, []string{"OTEL_TRACES_EXPORTER=none"}, err
		},
	}
}

func nginx(program string) *Peer {
	return &Peer{
		Name: Nginx, Kind: ReadLimit, program: program, orphaned: syscall.SIGTERM,
		command: func(p place) (args, env []string, err error) {
			file, err := write(p.conf, "nginx.conf", asRoot()+fmt.Sprintf(`daemon off;
worker_processes auto;
pid %[1]q;
error_log stderr crit;
events { worker_connections 4096; }
http {
	access_log off;
	sendfile on;
	tcp_nopush on;
	keepalive_timeout 600s;
	keepalive_requests 1000000000;
	open_file_cache max=20000 inactive=600s;
	open_file_cache_valid 600s;
	default_type application/octet-stream;
	client_body_temp_path %[2]q;
	proxy_temp_path %[2]q;
	fastcgi_temp_path %[2]q;
	uwsgi_temp_path %[2]q;
	scgi_temp_path %[2]q;
	server {
		listen %[3]s;
		root %[4]q;
		location ~ /manifests/ { default_type application/vnd.oci.image.manifest.v1+json; }
	}
}
`, filepath.Join(p.conf, "nginx.pid"), filepath.Join(p.conf, "temp"), p.addr, p.data))
			return []string{"-e", "stderr", "-c", file}, nil, err
		},
	}
}

// asRoot keeps nginx from giving up the right to read its files where it is run by root.
func asRoot() string {
	if os.Geteuid() == 0 {
		return "user root;\n"
	}
	return ""
}

func limit(program string) *Peer {
	return &Peer{
		Name: Limit, Kind: WriteLimit, Version: "this tree", program: program, orphaned: syscall.SIGKILL,
		command: func(p place) (args, env []string, err error) {
			return []string{"-listen", p.addr.String(), "-data", p.data}, nil, nil
		},
	}
}

func zot(program string) *Peer {
	return &Peer{
		Name: "zot", Kind: Registry, program: program, orphaned: syscall.SIGKILL,
		command: func(p place) (args, env []string, err error) {
			file, err := write(p.conf, "zot.json", fmt.Sprintf(`{
	"storage": {"rootDirectory": %q, "commit": true},
	"http": {"address": %q, "port": "%d", "compat": ["docker2s2"]},
	"log": {"level": "error"}
}
`, p.data, p.addr.Addr(), p.addr.Port()))
			return []string{"serve", file}, nil, err
		},
	}
}

// olareg has no setting that makes it sync.
func olareg(program string) *Peer {
	return &Peer{
		Name: "olareg", Kind: Registry, program: program, orphaned: syscall.SIGKILL,
		command: func(p place) (args, env []string, err error) {
			return []string{"serve", "--addr", p.addr.Addr().String(), "--port", strconv.Itoa(int(p.addr.Port())), "--dir", p.data}, nil, nil
		},
	}
}

func write(dir, name, content string) (string, error) {
	file := filepath.Join(dir, name)
	return file, os.WriteFile(file, []byte(content), 0o600)
}
