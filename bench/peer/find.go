//go:build linux

package peer

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The reference registry that is installed where no binary is given.
const (
	distributionModule  = "github.com/distribution/distribution/v3/cmd/registry"
	distributionVersion = "v3.1.2"
)

// Finder gets programs ready to run.
type Finder struct {
	Module string            // folder of Berth's module
	Cache  string            // folder for programs that are installed once
	Build  string            // folder for programs that are built afresh
	Given  map[string]string // peer to binary, where the user has one
	Log    func(format string, args ...any)
}

// ErrUnknown is returned for a name that is not a peer's.
var ErrUnknown = errors.New("unknown server")

// Names lists all peers: those that can be built or installed, then those of which a binary has to be given.
func Names() []string { return []string{Berth, Distribution, Nginx, Limit, "zot", "olareg"} }

// Find builds, installs or looks up the program of a peer.
func (f *Finder) Find(ctx context.Context, name string) (*Peer, error) {
	program := f.Given[name]
	var err error
	switch name {
	case Berth:
		if program == "" {
			program, err = f.build(ctx, name, "./cmd/berth")
		}
		return berth(program), err
	case Limit:
		if program == "" {
			program, err = f.build(ctx, name, "./bench/limit")
		}
		return limit(program), err
	case Distribution:
		if program == "" {
			program, err = f.install(ctx, distributionModule, distributionVersion)
		}
		p := distribution(program)
		p.Version = moduleVersion(program)
		return p, err
	case Nginx:
		if program == "" {
			program, err = findNginx()
		}
		p := nginx(program)
		p.Version = nginxVersion(ctx, program)
		return p, err
	case "zot", "olareg":
		if program == "" {
			return nil, fmt.Errorf("%s: say where its binary is: --peer %s=/path", name, name)
		}
		p := zot(program)
		if name == "olareg" {
			p = olareg(program)
		}
		p.Version = moduleVersion(program)
		return p, nil
	}
	return nil, fmt.Errorf("%q: %w: there are %s", name, ErrUnknown, strings.Join(Names(), ", "))
}

func (f *Finder) build(ctx context.Context, name, pkg string) (string, error) {
	f.Log("building %s", pkg)
	program := filepath.Join(f.Build, name)
	return program, f.goTool(ctx, nil, "build", "-o", program, pkg)
}

func (f *Finder) install(ctx context.Context, pkg, version string) (string, error) {
	program := filepath.Join(f.Cache, filepath.Base(pkg))
	if moduleVersion(program) == version {
		return program, nil
	}
	f.Log("installing %s@%s to %s", pkg, version, f.Cache)
	return program, f.goTool(ctx, []string{"GOBIN=" + f.Cache}, "install", pkg+"@"+version)
}

func (f *Finder) goTool(ctx context.Context, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = f.Module
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// moduleVersion returns the version of the module that a Go program was built from, or "".
func moduleVersion(program string) string {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return ""
	}
	return info.Main.Version
}

// findNginx looks beside $PATH, because distributions install it where only root looks.
func findNginx() (string, error) {
	places := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin")
	for _, dir := range slices.Compact(places) {
		if program, err := exec.LookPath(filepath.Join(dir, "nginx")); err == nil {
			return program, nil
		}
	}
	return "", errors.New("nginx, the limit of reads, is not installed: apt-get install nginx-light, or leave it out with --servers")
}

func nginxVersion(ctx context.Context, program string) string {
	out, _ := exec.CommandContext(ctx, program, "-v").CombinedOutput()
	_, v, _ := strings.Cut(strings.TrimSpace(string(out)), "nginx/")
	return v
}
