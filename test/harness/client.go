package harness

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clientTimeout is how long one run of a client may take. It is far more than any
// needs, so that a client that hangs is named instead of the whole test package.
const clientTimeout = 3 * time.Minute

// Client runs one program with a home directory of its own, so that it neither
// sees nor changes what the user configured.
type Client struct {
	T    testing.TB
	Path string
	Args []string // before the arguments of each run
	Env  []string // beside PATH and the home directory
	Home string
	Dir  string // working directory; the home directory if empty
}

// NewClient returns a client for the program, which Need looks up.
func NewClient(t testing.TB, program string, args ...string) *Client {
	t.Helper()
	// Not t.TempDir, whose long names podman's sockets don't bear.
	home, err := os.MkdirTemp("", "berth-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What podman and buildah leave behind may still be at work.
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			unmount(home)
			err := os.RemoveAll(home)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	for _, dir := range []string{"run", ".docker"} {
		if err := os.Mkdir(filepath.Join(home, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return &Client{T: t, Path: Need(t, program), Args: args, Home: home}
}

// Run runs the program and returns what it wrote to stdout. The test fails when
// the program does.
func (c *Client) Run(args ...string) string {
	c.T.Helper()
	return c.RunInput("", args...)
}

// RunInput is Run with text on stdin.
func (c *Client) RunInput(stdin string, args ...string) string {
	c.T.Helper()
	stdout, stderr, err := c.run(stdin, args)
	if err != nil {
		c.T.Fatalf("%s %s: %v\n%s%s", filepath.Base(c.Path), strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// RunAll is Run, but returns stdout and stderr together.
func (c *Client) RunAll(args ...string) string {
	c.T.Helper()
	stdout, stderr, err := c.run("", args)
	if err != nil {
		c.T.Fatalf("%s %s: %v\n%s%s", filepath.Base(c.Path), strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout + stderr
}

// Fail runs the program, which must fail, and returns all that it wrote.
func (c *Client) Fail(args ...string) string {
	c.T.Helper()
	stdout, stderr, err := c.run("", args)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		c.T.Fatalf("%s %s: got %v, expected it to fail\n%s%s", filepath.Base(c.Path), strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout + stderr
}

func (c *Client) run(stdin string, args []string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(c.T.Context(), clientTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path, append(append([]string{}, c.Args...), args...)...)
	cmd.WaitDelay = 5 * time.Second // for grandchildren that keep the pipes open
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = c.Home
	}
	cmd.Env = c.Environ()
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil && err != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return out.String(), errs.String(), err
}

// Environ returns the environment that the program runs in. Nothing of the user's
// is in it but PATH.
func (c *Client) Environ() []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"HOME=" + c.Home,
		"XDG_RUNTIME_DIR=" + filepath.Join(c.Home, "run"),
		"TMPDIR=" + c.Home,
		"LC_ALL=C.UTF-8",
		// Clients reach loopback addresses only: a closed port stands for everything else.
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1,localhost",
	}, c.Env...)
}

// Contains fails the test unless text has every part.
func Contains(t testing.TB, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("expected %q in:\n%s", p, text)
		}
	}
}
