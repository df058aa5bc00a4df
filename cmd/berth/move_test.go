package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// movedImages are images that a server has acknowledged.
type movedImages struct {
	mu     sync.Mutex
	images map[string]harness.Image // by "repository:tag"
}

// push pushes images from several clients until ctx ends, n at least.
func (m *movedImages) push(ctx context.Context, t *testing.T, s *harness.Server, n int) {
	var clients sync.WaitGroup
	for c := range 2 {
		clients.Go(func() {
			for i := 0; i < n || ctx.Err() == nil; i++ {
				a := harness.NewAPI(t, s)
				repo, tag := fmt.Sprintf("team%d/app%d", c, i%5), fmt.Sprintf("v%d", rand.N(1<<40))
				image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, harness.Random(50)),
					harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(rand.N(200_000))))
				for _, b := range image.Blobs {
					resp, err := a.Try(context.Background(), "POST", "/v2/"+repo+"/blobs/uploads/?digest="+b.Digest.String(), strings.NewReader(string(b.Bytes)))
					if err != nil || resp.StatusCode != http.StatusCreated {
						t.Errorf("push of a blob: %v, %v", resp, err)
						return
					}
				}
				resp, err := a.Try(context.Background(), "PUT", "/v2/"+repo+"/manifests/"+tag, strings.NewReader(string(image.Manifest.Bytes)),
					harness.Header{"Content-Type": image.Manifest.MediaType})
				if err != nil || resp.StatusCode != http.StatusCreated {
					t.Errorf("push of a manifest: %v, %v", resp, err)
					return
				}
				m.mu.Lock()
				m.images[repo+":"+tag] = image
				m.mu.Unlock()
			}
		})
	}
	clients.Wait()
}

// pull pulls everything from a server and compares it.
func (m *movedImages) pull(t *testing.T, s *harness.Server) {
	t.Helper()
	a := harness.NewAPI(t, s)
	tags := make(map[string]int)
	for name, image := range m.images {
		repo, tag, _ := strings.Cut(name, ":")
		tags[repo]++
		if resp := a.Expect(http.StatusOK, "GET", "/v2/"+repo+"/manifests/"+tag, nil); string(resp.Bytes) != string(image.Manifest.Bytes) {
			t.Fatalf("%s is another manifest", name)
		}
		for _, b := range image.Blobs {
			if resp := a.Expect(http.StatusOK, "GET", "/v2/"+repo+"/blobs/"+b.Digest.String(), nil); string(resp.Bytes) != string(b.Bytes) {
				t.Fatalf("blob %s of %s has other bytes", b.Digest, name)
			}
		}
	}
	for repo, n := range tags {
		if got := a.Tags(repo); len(got) != n {
			t.Errorf("%s has %d tags, expected %d", repo, len(got), n)
		}
	}
}

// berthCommand runs the program. The error is an *exec.ExitError if it failed.
func berthCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return berthCommandWith(t, nil, args...)
}

// berthCommandWith is berthCommand with more in the environment.
func berthCommandWith(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience) // of a server that should not start
	defer cancel()
	cmd := exec.CommandContext(ctx, harness.Binary(t), args...)
	cmd.Dir, cmd.Env = t.TempDir(), append(environ(), env...)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "DATA RACE") || strings.Contains(string(out), "panic:") {
		t.Errorf("berth %s: %s", strings.Join(args, " "), out)
	}
	return string(out), err
}

// killed runs the program and kills it after a time, unless it ends before. It returns whether the program has ended well.
func killed(t *testing.T, after time.Duration, args ...string) bool {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), args...)
	cmd.Dir, cmd.Env = t.TempDir(), environ()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if strings.Contains(out.String(), "a rebuild needs an empty one") { // the one before was killed after all was done
		return true
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		t.Fatalf("berth %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
	return err == nil
}

// clusterConfig writes a configuration whose database and bucket are empty.
func clusterConfig(t *testing.T) string {
	t.Helper()
	db, bucket := service.Postgres(t), service.S3(t)
	name := filepath.Join(t.TempDir(), "cluster.yaml")
	text := fmt.Sprintf("database: %q\ndatabase_pool: {timeout: 5s}\nstorage:\n  s3: {bucket: %q, endpoint: %q, region: %q, access_key_id: %q, secret_access_key: %q, redirect: off}\n",
		db.URL, bucket.Name, bucket.Endpoint, bucket.Region, bucket.AccessKey, bucket.SecretKey)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// kills runs the program again and again and kills it, until it has been killed n times. It returns true if the
// program has ended well before that.
func kills(t *testing.T, n int, args ...string) bool {
	t.Helper()
	for range n {
		if killed(t, 100*time.Millisecond+rand.N(1500*time.Millisecond), args...) {
			return true
		}
	}
	return false
}

// unusable fails the test unless the target of an unfinished move is refused by all commands.
func unusable(t *testing.T, flag, target string) {
	t.Helper()
	for _, args := range [][]string{{"serve", "--listen", "127.0.0.1:0", flag, target}, {"fsck", flag, target}} {
		if out, err := berthCommand(t, args...); err == nil || !strings.Contains(out, "is not finished") {
			t.Errorf("berth %s with an unfinished target: %v\n%s", args[0], err, out)
		}
	}
}

// whole fails the test unless the registry at the target is a good one.
func whole(t *testing.T, flag, target string) {
	t.Helper()
	if out, err := berthCommand(t, "fsck", flag, target, "--deep"); err != nil || !strings.Contains(out, "damaged: 0, leftover: 0") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestMove moves a registry from a folder to PostgreSQL and a bucket and on to another folder, while clients push to it and
// pull from it; the command is killed again and again.
func TestMove(t *testing.T) {
	t.Parallel()
	folder, other, cluster := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "other"), clusterConfig(t)
	pushed := &movedImages{images: make(map[string]harness.Image)}
	testMoveFromFolder(t, pushed, folder, cluster)
	testMoveFromCluster(t, pushed, cluster, other)
}

func testMoveFromFolder(t *testing.T, pushed *movedImages, from, to string) {
	source, err := harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{Args: []string{"--data", from}})
	if err != nil {
		t.Fatal(err)
	}
	pushed.push(ended(), t, source, 50)

	// In full service: pushes go on.
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	clients.Go(func() { pushed.push(ctx, t, source, 1) })
	kills(t, 5, "move", "--from", from, "--to", to)
	out, err := berthCommand(t, "move", "--from", from, "--to", to)
	if err != nil || !strings.Contains(out, "Run this command again with --switch") || !strings.Contains(out, "read_only: true") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(out)
	out, err = berthCommand(t, "move", "--from", from, "--to", to, "--switch")
	if err == nil || !strings.Contains(out, "is in use by a server that writes to it: process ") || !strings.Contains(out, "read_only: true") {
		t.Errorf("the switch beside a server that writes: %v\n%s", err, out)
	}
	cancel()
	clients.Wait()
	unusable(t, "--config", to)

	// Pulls go on.
	if err := source.Stop(); err != nil {
		t.Fatal(err)
	}
	reader := harness.Start(t, harness.Settings{Env: []string{"BERTH_READ_ONLY=true"}, Args: []string{"--data", from}})
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	clients.Go(func() {
		for ctx.Err() == nil {
			pushed.pull(t, reader)
		}
	})
	if !kills(t, 5, "move", "--from", from, "--to", to, "--switch") {
		out, err := berthCommand(t, "move", "--from", from, "--to", to, "--switch", "--deep")
		if err != nil || !strings.Contains(out, "The registry is at "+to+" now") {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Log(out)
	}
	cancel()
	clients.Wait()
	if out, err := berthCommand(t, "move", "--from", from, "--to", to, "--switch"); err == nil || !strings.Contains(out, "has been moved there already") {
		t.Errorf("a second switch: %v\n%s", err, out)
	}
	whole(t, "--config", to)
}

func testMoveFromCluster(t *testing.T, pushed *movedImages, from, to string) {
	node := harness.Start(t, harness.Settings{Args: []string{"--config", from}})
	pushed.pull(t, node)
	pushed.push(ended(), t, node, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	clients.Go(func() { pushed.push(ctx, t, node, 1) })
	if !kills(t, 3, "move", "--from", from, "--to", to) { // perhaps so early that none had begun
		if out, err := berthCommand(t, "move", "--from", from, "--to", to); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	cancel()
	clients.Wait()
	if kills(t, 3, "move", "--from", from, "--to", to, "--switch", "--release") {
		t.Log("the switch was never interrupted")
	} else {
		unusable(t, "--data", to)
		out := testHeldSwitch(t, pushed, node, "move", "--from", from, "--to", to, "--switch")
		t.Log(out)
	}
	target := harness.Start(t, harness.Settings{Args: []string{"--data", to}})
	pushed.pull(t, target)
	pushed.push(ended(), t, target, 1)
	pushed.pull(t, target)
	whole(t, "--data", to)
}

// testHeldSwitch makes a switch from PostgreSQL. Until the command is told to end, changes are refused
// and pulls go on.
func testHeldSwitch(t *testing.T, pushed *movedImages, node *harness.Server, args ...string) string {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), args...)
	cmd.Dir, cmd.Env = t.TempDir(), environ()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	var out strings.Builder
	for lines := bufio.NewScanner(stdout); !strings.Contains(out.String(), "Ctrl-C") && lines.Scan(); {
		out.WriteString(lines.Text())
	}
	b := harness.NewBlob(v1.MediaTypeImageLayer, []byte("too late"))
	resp := harness.NewAPI(t, node).Do("POST", "/v2/team0/app0/blobs/uploads/?digest="+b.Digest.String(), b.Bytes)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("a push to a registry that was moved: %d %v", resp.StatusCode, resp.Header)
	}
	pushed.pull(t, node)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the switch ends with %v\n%s", err, stderr.String())
	}
	return out.String()
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// TestMoveOfDamage tells what to do about blobs that cannot be copied.
func TestMoveOfDamage(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	from := filepath.Join(s.Dir, "data")
	image := harness.Pack(v1.Manifest{}, harness.NewBlob(v1.MediaTypeImageConfig, []byte("{}")))
	harness.NewAPI(t, s).PushImage("team/app", "1", image)
	objects, err := filepath.Glob(filepath.Join(from, "blobs", "*", "*", "*"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("the objects are %v, %v", objects, err)
	}
	if err := os.Remove(objects[0]); err != nil {
		t.Fatal(err)
	}
	out, err := berthCommand(t, "move", "--from", from, "--to", filepath.Join(t.TempDir(), "new"))
	for _, want := range []string{
		"DAMAGE: blob " + image.Blobs[0].Digest.String() + ": its bytes", "needed in team/app\n",
		"1 blobs are damaged at " + from, "push them again", "berth fsck --repair",
	} {
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("the output lacks %q: %v\n%s", want, err, out)
		}
	}
}

// TestMoveOfTheDatabase moves the rows alone: both ends have the same data folder.
func TestMoveOfTheDatabase(t *testing.T) {
	t.Parallel()
	from, to := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "postgres.yaml")
	text := fmt.Sprintf("database: %q\ndata: %q\n", service.Postgres(t).URL, from)
	if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{Args: []string{"--data", from}})
	if err != nil {
		t.Fatal(err)
	}
	pushed := &movedImages{images: make(map[string]harness.Image)}
	pushed.push(ended(), t, source, 3)
	if out, err := berthCommand(t, "move", "--from", from, "--to", to); err != nil || !strings.HasPrefix(out, "0 blobs (0 B) copied.") {
		t.Errorf("beside the server: %v\n%s", err, out)
	}
	if out, err := berthCommand(t, "move", "--from", from, "--to", to, "--switch"); err == nil || !strings.Contains(out, "is in use by a server") {
		t.Errorf("the switch beside the server: %v\n%s", err, out)
	}
	if err := source.Stop(); err != nil {
		t.Fatal(err)
	}
	if out, err := berthCommand(t, "move", "--from", from, "--to", to, "--switch"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	node := harness.Start(t, harness.Settings{Args: []string{"--config", to, "--data", from}})
	pushed.pull(t, node)
	pushed.push(ended(), t, node, 1)
	whole(t, "--config", to)

	// With PostgreSQL nothing has to be stopped before, wherever blobs are.
	back := filepath.Join(t.TempDir(), "back")
	if out, err := berthCommand(t, "move", "--from", to, "--to", back); err != nil || !strings.Contains(out, "Nothing has to be stopped at first") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := berthCommand(t, "move", "--from", to, "--to", back, "--switch", "--release"); err != nil {
		t.Errorf("the switch from PostgreSQL and a folder: %v\n%s", err, out)
	}
}
