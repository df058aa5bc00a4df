//go:build linux

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berthregistry/berth/bench/peer"
)

// look runs a scenario again, unmeasured, to see what servers do: which system calls send the big
// blob, and, if profiles are wanted, where Berth spends its time.
func (b *bench) look(ctx context.Context, s scenario, candidates []*servers) error {
	_, err := exec.LookPath("strace")
	haveStrace := err == nil
	if s.name == "pull-big-1" && haveStrace {
		for _, c := range candidates {
			if c == nil {
				continue
			}
			t := &tracer{filter: "sendfile,splice,read,pread64,write,writev"}
			if _, err := b.once(ctx, s, c, t); err != nil {
				b.Log("%s: strace of %s: %v", s.name, c.peer.Name, err)
				continue
			}
			b.report.Notes = append(b.report.Notes, fmt.Sprintf("%s, %s: %s", s.metrics[0].title, c.peer.Name, calls(t.summary)))
		}
	}
	if b.Profiles == "" {
		return ctx.Err()
	}
	i := slices.IndexFunc(candidates, func(c *servers) bool { return c != nil && c.peer.Name == peer.Berth })
	if i < 0 {
		return ctx.Err()
	}
	file := func(kind string) string { return filepath.Join(b.Profiles, s.name+"."+kind) }
	profilers := []profiler{pprof{file("pprof"), b.Duration}}
	if haveStrace {
		profilers = append(profilers, &tracer{file: file("strace.txt")})
	}
	if _, err := exec.LookPath("perf"); err == nil {
		profilers = append(profilers, perf{file("perf.data"), file("perf.txt")})
	}
	for _, p := range profilers {
		if _, err := b.once(ctx, s, candidates[i], p); err != nil {
			b.Log("%s: profile: %v", s.name, err)
		}
	}
	return ctx.Err()
}

// tracer counts system calls with strace.
type tracer struct {
	filter  string // names of calls, or "" for all
	file    string // where the summary goes, or ""
	summary []byte
}

func (t *tracer) watch(ctx context.Context, srv *server) (func() error, error) {
	args := []string{"-f", "-c"}
	if t.filter != "" {
		args = append(args, "-e", "trace="+t.filter)
	}
	for _, pid := range srv.PIDs() {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	var out bytes.Buffer
	cmd := watcher(ctx, "strace", args...)
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for start := time.Now(); !traced(srv.PIDs()) && time.Since(start) < 5*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	return func() error {
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait() // strace ends with the signal's status
		_, t.summary, _ = bytes.Cut(out.Bytes(), []byte("% time"))
		if t.summary == nil {
			return fmt.Errorf("strace: %s", out.Bytes())
		}
		if t.file == "" {
			return nil
		}
		return os.WriteFile(t.file, append([]byte("% time"), t.summary...), 0o644)
	}, nil
}

// traced tells whether a tracer is attached to all processes.
func traced(pids []int) bool {
	return !slices.ContainsFunc(pids, func(pid int) bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return bytes.Contains(status, []byte("TracerPid:\t0\n"))
	})
}

// calls turns the summary of strace -c into a sentence.
func calls(summary []byte) string {
	var out []string
	for line := range strings.Lines(string(summary)) {
		f := strings.Fields(line) // % time, seconds, usecs/call, calls, errors (if any), syscall
		if len(f) < 5 || f[len(f)-1] == "total" {
			continue
		}
		if _, err := strconv.Atoi(f[3]); err == nil {
			out = append(out, fmt.Sprintf("%s %s times", f[len(f)-1], f[3]))
		}
	}
	if len(out) == 0 {
		return "none of the calls that were looked for"
	}
	return strings.Join(out, ", ")
}

// pprof takes a CPU profile that the server makes of itself, for go tool pprof.
type pprof struct {
	file string
	d    time.Duration
}

func (p pprof) watch(ctx context.Context, srv *server) (func() error, error) {
	if !srv.Profiles.IsValid() {
		return nil, errors.New("the server serves no profiles")
	}
	seconds := max(2, int((p.d*3/2)/time.Second))
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", srv.Profiles, seconds), nil)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- save(req, p.file) }()
	return func() error { return <-done }, nil
}

func save(req *http.Request, file string) error {
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	profile, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o644)
}

// perf samples the server's stacks, those in the kernel included.
type perf struct{ data, text string }

func (p perf) watch(ctx context.Context, srv *server) (func() error, error) {
	pids := make([]string, 0, 4)
	for _, pid := range srv.PIDs() {
		pids = append(pids, strconv.Itoa(pid))
	}
	// Virtual machines often have no counter of cycles; the clock is everywhere.
	cmd := watcher(ctx, "perf", "record", "-q", "-e", "cpu-clock", "-F", "499", "-g", "-o", p.data, "-p", strings.Join(pids, ","))
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	time.Sleep(300 * time.Millisecond) // perf does not tell when it has begun
	return func() error {
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait() // perf ends with the signal's status
		text, err := watcher(ctx, "perf", "report", "-i", p.data, "--stdio", "--no-children", "--percent-limit", "0.5").Output()
		if err != nil {
			return fmt.Errorf("perf report: %w: %s", err, out.Bytes())
		}
		return os.WriteFile(p.text, text, 0o644)
	}, nil
}

// watcher returns a command that a Ctrl-C of the terminal does not reach; it ends with ctx
// or with the benchmark.
func watcher(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}
