//go:build linux

// The command bench measures Berth beside the reference registry, and beside what the machine
// allows: nginx for reads, and for writes the barest program that stores durably.
//
//	go run ./bench            # everything, about half an hour; writes the figures of docs/benchmarks.md
//	go run ./bench --quick    # smaller sizes, shorter runs
//	go run ./bench --only storm,mount
//
// It builds Berth, installs the reference registry, and needs nginx. All listens on loopback, and all
// that it starts and writes is gone when it ends. It holds no time to be right or wrong: it exits with an error
// only if something could not be measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/berthregistry/berth/bench/peer"
	"github.com/berthregistry/berth/bench/report"
	"github.com/berthregistry/berth/bench/scenario"
)

func main() {
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
		context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once; the kernel then ends the servers
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	quick    bool
	large    bool
	json     bool
	profile  string
	docs     string
	dir      string
	only     []string
	servers  []string
	programs map[string]string
	timeout  time.Duration
	rounds   int
}

func parse(args []string) (options, error) {
	o := options{
		servers:  []string{peer.Berth, peer.Distribution, peer.Nginx, peer.Limit},
		programs: make(map[string]string),
	}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	list := func(into *[]string, known []string) func(string) error {
		return func(s string) error {
			*into = strings.Split(s, ",")
			for _, name := range *into {
				if !slices.Contains(known, name) {
					return fmt.Errorf("there is no %q, but %s", name, strings.Join(known, ", "))
				}
			}
			return nil
		}
	}
	f.BoolVar(&o.quick, "quick", false, "reduce sizes and times, for work on the benchmark; goals do not apply")
	f.BoolVar(&o.large, "large", false, "fill Berth with 100,000 repositories for the comparison of first pages")
	f.BoolVar(&o.json, "json", false, "print JSON with all samples instead of a table")
	f.IntVar(&o.rounds, "rounds", 0, "`number` of rounds that count")
	f.StringVar(&o.profile, "profile", "", "run each scenario again to profile Berth into this `folder`: pprof, strace, perf")
	f.StringVar(&o.docs, "docs", "", "`page` whose figures are replaced (default docs/benchmarks.md if everything is run, else none)")
	f.StringVar(&o.dir, "dir", "", "`folder` on the disk to measure, for data (default .cache/bench)")
	f.DurationVar(&o.timeout, "timeout", 2*time.Hour, "`time` after which all of it ends")
	f.Func("only", "run these `scenarios` only, separated by commas: "+strings.Join(scenario.Names(), ", "), list(&o.only, scenario.Names()))
	f.Func("servers", "compare these `servers` only, separated by commas (default "+strings.Join(o.servers, ",")+")", list(&o.servers, peer.Names()))
	f.Func("peer", "use the binary of `server=path`; adds zot or olareg to the comparison", func(s string) error {
		name, path, ok := strings.Cut(s, "=")
		if !ok || !slices.Contains(peer.Names(), name) {
			return fmt.Errorf("want server=path, where server is one of %s", strings.Join(peer.Names(), ", "))
		}
		path, err := filepath.Abs(path)
		o.programs[name] = path
		return err
	})
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	for name := range o.programs {
		if !slices.Contains(o.servers, name) {
			o.servers = append(o.servers, name)
		}
	}
	// In the order in which they are known, whatever was typed.
	known := peer.Names()
	slices.SortFunc(o.servers, func(a, b string) int { return slices.Index(known, a) - slices.Index(known, b) })
	return o, nil
}

func (o options) plan() scenario.Plan {
	p := scenario.Full()
	if o.quick {
		p = scenario.Quick()
	}
	if o.large {
		p.Large = 100_000
	}
	if o.rounds > 0 {
		p.Rounds = o.rounds
	}
	return p
}

// whole tells whether nothing is left out, so that the figures are worth publishing.
func (o options) whole() bool {
	return !o.quick && len(o.only) == 0 && slices.Contains(o.servers, peer.Berth) &&
		slices.Contains(o.servers, peer.Distribution) && slices.Contains(o.servers, peer.Nginx) && slices.Contains(o.servers, peer.Limit)
}

func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("not done within %s", o.timeout))
	defer cancel()
	logf := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05")}, args...)...)
	}
	module, err := moduleDir(ctx)
	if err != nil {
		return err
	}
	if o.dir == "" {
		o.dir = filepath.Join(module, ".cache", "bench")
	}
	dir, err := workDir(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.profile != "" {
		if o.profile, err = filepath.Abs(o.profile); err != nil {
			return err
		}
		if err := os.MkdirAll(o.profile, 0o755); err != nil {
			return err
		}
	}
	r := &report.Report{Date: time.Now(), Quick: o.quick, Rounds: o.plan().Rounds, Servers: make(map[string]string)}
	if r.Machine, err = report.Here(dir); err != nil {
		return err
	}
	finder := &peer.Finder{
		Module: module,
		Cache:  filepath.Join(module, ".cache", "bin"),
		Build:  filepath.Join(dir, "bin"),
		Given:  o.programs,
		Log:    logf,
	}
	var peers []*peer.Peer
	for _, name := range o.servers {
		p, err := finder.Find(ctx, name)
		if err != nil {
			return err
		}
		peers = append(peers, p)
		r.Servers[name] = p.Version
	}
	err = scenario.Run(ctx, scenario.Options{
		Plan: o.plan(), Peers: peers, Only: o.only, Dir: filepath.Join(dir, "servers"), Profiles: o.profile, Log: logf,
	}, r)
	if len(r.Rows) == 0 {
		return err
	}
	write := r.Text
	if o.json {
		write = r.JSON
	}
	if werr := write(os.Stdout); err == nil {
		err = werr
	}
	if o.docs == "" && o.whole() {
		o.docs = filepath.Join(module, "docs", "benchmarks.md")
	}
	if err == nil && o.docs != "" {
		err = r.Update(o.docs)
	}
	if err == nil && r.HasFailed() {
		err = errors.New("some servers failed, see above")
	}
	return err
}

// moduleDir returns the folder of Berth's module, which the benchmark is run from.
func moduleDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if path != "github.com/berthregistry/berth" {
		return "", errors.New("run the benchmark from Berth's own tree: go run ./bench")
	}
	return dir, nil
}
