package crash

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
	"github.com/berthregistry/berth/test/service"
)

// deletions is the world of TestKillDeletions.
type deletions struct {
	world
	api *harness.API
}

// images is what a repository had when it was filled.
type images struct {
	repo      string
	tags      map[string]string // digests
	manifests map[string][]byte // by digest
	blobs     map[string][]byte
	goes      map[string]bool // the tags and manifests that retention lets go
	last      map[string]bool // and that go with the last index
}

var asJSON = harness.Header{"Content-Type": "application/json"}

// TestKillDeletions kills the server while it deletes and takes back: by retention, in cascades, whole repositories, out of the trash, by history. Each is asked for
// again, and ends as if it had not been cut off.
func TestKillDeletions(t *testing.T) {
	t.Run("SQLite and a folder", func(t *testing.T) { killDeletions(t) })
	t.Run("PostgreSQL and a bucket", func(t *testing.T) {
		killDeletions(t, append(service.S3(t).Env(), "BERTH_DATABASE="+service.Postgres(t).URL)...)
	})
}

func killDeletions(t *testing.T, env ...string) {
	n := 2
	if rounds != defaultRounds {
		n = rounds
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, n)
	d := &deletions{world: world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), env: env}}
	var err error
	d.server, err = harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{Env: append([]string{
		"BERTH_COLLECTION_INTERVAL=1s", "BERTH_LOG_ACCESS=false", "BERTH_RETENTION_INTERVAL=0s"}, env...)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { d.server.Kill() }()
	d.api = harness.NewAPI(t, d.server)
	for round := range n {
		t.Logf("round %d", round)
		d.round(round)
		if t.Failed() {
			t.Fatalf("round %d of seed %d; the server's log ends with\n%s", round, seed, d.server.LogTail())
		}
	}
	if err := d.server.Stop(); err != nil {
		t.Error(err)
	}
	d.fsck("--deep")
}

func (d *deletions) round(round int) {
	all := d.fill(fmt.Sprintf("kill/r%d", round))
	held := d.fill(fmt.Sprintf("held/r%d", round))
	filled := d.moment()

	policy := struct{ ID int64 }{}
	body := d.api.Expect(http.StatusCreated, "POST", "/api/v1/retention", harness.JSON(map[string]any{
		"repositories": []string{"kill/**", "held/**"}, "tags": []string{"old*"}, "rules": map[string]any{"newest": 1}}), asJSON)
	if err := json.Unmarshal(body.Bytes, &policy); err != nil {
		d.t.Fatal(err)
	}
	protection := struct{ ID int64 }{}
	body = d.api.Expect(http.StatusCreated, "POST", "/api/v1/protections", harness.JSON(map[string]any{"repositories": []string{"held/**"}, "tags": []string{"*"}}), asJSON)
	if err := json.Unmarshal(body.Bytes, &protection); err != nil {
		d.t.Fatal(err)
	}
	plan := filepath.Join(d.t.TempDir(), "plan")
	b, err := d.berth("retention", "plan", "--json").Output()
	if err == nil {
		err = os.WriteFile(plan, b, 0o600)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	// The server at its own work, then a plan that is carried out from here, then again to the end.
	d.api.Expect(http.StatusNoContent, "POST", "/api/v1/retention/run", []byte("{}"), asJSON)
	if d.rng.IntN(2) == 0 { // it looks every five seconds
		time.Sleep(time.Duration(d.rng.IntN(5000)) * time.Millisecond)
	}
	d.kill(d.berth("retention", "apply", plan))
	// What the plan deleted is not there any more; what it did not is in a new plan as well.
	if b, err = d.berth("retention", "plan", "--json").Output(); err == nil {
		err = os.WriteFile(plan, b, 0o600)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	d.finish("retention", "apply", plan)
	d.want("retention", all, all.goes)
	d.want("retention beside protected tags", held, nil)
	d.api.Expect(http.StatusNoContent, "DELETE", fmt.Sprintf("/api/v1/retention/%d", policy.ID), nil)

	// One image with all that belongs to it.
	gone := maps.Clone(all.goes)
	maps.Copy(gone, all.last)
	d.kill(d.berth("delete", "--yes", all.repo+":last"))
	if d.here(all, "last") {
		d.finish("delete", "--yes", all.repo+":last")
	}
	d.kill(d.berth("delete", "--yes", all.repo+":old-last"))
	if d.here(all, "old-last") {
		d.finish("delete", "--yes", all.repo+":old-last")
	}
	d.want("delete", all, gone)

	deleted := d.moment()
	d.kill(d.berth("repo", "delete", "--yes", all.repo))
	if out, err := d.berth("repo", "delete", "--yes", all.repo).CombinedOutput(); err != nil && !strings.Contains(string(out), "no repository") {
		d.t.Errorf("repo delete: %v: %s", err, out)
	}
	every := make(map[string]bool)
	for tag := range all.tags {
		every[tag] = true
	}
	for digest := range all.manifests {
		every[digest] = true
	}
	d.want("delete of the repository", all, every)

	undelete := []string{"undelete", "--since", deleted, all.repo}
	d.kill(d.berth(undelete...))
	if out, err := d.berth(undelete...).CombinedOutput(); err != nil && !strings.Contains(string(out), "there is nothing in the trash") {
		d.t.Errorf("undelete: %v: %s", err, out)
	}
	d.want("undelete", all, gone)

	restore := []string{"history", "restore", all.repo, "--at", filled, "--yes"}
	d.kill(d.berth(restore...))
	d.finish(restore...)
	d.want("restore", all, nil)
	d.want("what is protected", held, nil)
	d.api.Expect(http.StatusNoContent, "DELETE", fmt.Sprintf("/api/v1/protections/%d", protection.ID), nil)
}

// moment returns the time, and sees to it that what follows is later.
func (d *deletions) moment() string {
	time.Sleep(5 * time.Millisecond)
	text := time.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	time.Sleep(5 * time.Millisecond)
	return text
}

// fill makes indexes with parts that they share, with signatures and SBOMs. All that is tagged "old" may go but the last one, which has another tag, too.
func (d *deletions) fill(repo string) *images {
	all := &images{repo: repo, tags: make(map[string]string), manifests: make(map[string][]byte), blobs: make(map[string][]byte), goes: make(map[string]bool), last: make(map[string]bool)}
	common := harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(1000))
	push := func(m v1.Manifest, tags ...string) v1.Descriptor {
		image := harness.Pack(m, harness.NewBlob(v1.MediaTypeImageConfig, harness.Random(50)), common, harness.NewBlob(v1.MediaTypeImageLayer, harness.Random(2000)))
		for _, b := range image.Blobs {
			if _, ok := all.blobs[b.Digest.String()]; !ok {
				d.api.PushBlob(repo, b)
				all.blobs[b.Digest.String()] = b.Bytes
			}
		}
		all.manifest(d.api, image.Manifest, tags...)
		return image.Manifest.Descriptor
	}
	before := push(v1.Manifest{})
	keep := []v1.Descriptor{before}
	const n = 6
	for i := range n {
		part := push(v1.Manifest{})
		index := harness.NewIndex(before, part)
		name := fmt.Sprintf("old-%d", i)
		tags := []string{name, name + "b"}
		if i == n-1 {
			tags = []string{"last", "old-last"}
			keep = append(keep, before)
		}
		before = part
		all.manifest(d.api, index, tags...)
		signature := "sha256-" + index.Digest.Encoded() + ".sig"
		sbom := push(v1.Manifest{Subject: &index.Descriptor})
		signed := push(v1.Manifest{}, signature)
		goes := all.goes
		if i == n-1 {
			goes = all.last
		}
		for _, what := range append(tags, signature, index.Digest.String(), part.Digest.String(), sbom.Digest.String(), signed.Digest.String()) {
			goes[what] = true
		}
	}
	all.manifest(d.api, harness.NewIndex(keep...), "kept")
	for _, part := range keep {
		delete(all.goes, part.Digest.String())
	}
	return all
}

func (all *images) manifest(api *harness.API, m harness.Blob, tags ...string) {
	if len(tags) == 0 {
		api.PushManifest(all.repo, "", m)
	}
	for _, tag := range tags {
		api.PushManifest(all.repo, tag, m)
		all.tags[tag] = m.Digest.String()
	}
	all.manifests[m.Digest.String()] = m.Bytes
}

func (d *deletions) berth(args ...string) *exec.Cmd {
	return exec.Command(harness.Binary(d.t), append(args, "--server", d.server.URL)...)
}

// kill runs a command and kills the server meanwhile, or right after.
func (d *deletions) kill(cmd *exec.Cmd) {
	d.t.Helper()
	done := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
		done <- nil
	case <-time.After(time.Duration(d.rng.IntN(400)) * time.Millisecond):
	}
	d.server.Kill()
	<-done
	if err := d.server.Restart(); err != nil {
		d.t.Fatal(err)
	}
}

// finish runs a command, which has to succeed.
func (d *deletions) finish(args ...string) {
	d.t.Helper()
	if out, err := d.berth(args...).CombinedOutput(); err != nil {
		d.t.Fatalf("berth %v: %v: %s", args, err, out)
	}
}

func (d *deletions) here(all *images, ref string) bool {
	d.t.Helper()
	return d.api.Do("HEAD", "/v2/"+all.repo+"/manifests/"+ref, nil).StatusCode == http.StatusOK
}

// want fails the test unless exactly what is not gone is there, whole.
func (d *deletions) want(after string, all *images, gone map[string]bool) {
	d.t.Helper()
	refs := make(map[string]string)
	for tag, digest := range all.tags {
		refs[tag] = digest
	}
	for digest := range all.manifests {
		refs[digest] = digest
	}
	for ref, digest := range refs {
		resp := d.api.Do("GET", "/v2/"+all.repo+"/manifests/"+ref, nil)
		switch here := resp.StatusCode == http.StatusOK; {
		case here && gone[ref]:
			d.t.Errorf("after %s, %s of %s is still there", after, ref, all.repo)
		case !here && !gone[ref]:
			d.t.Errorf("after %s, %s of %s is gone: status %d", after, ref, all.repo, resp.StatusCode)
		case here && string(resp.Bytes) != string(all.manifests[digest]):
			d.t.Errorf("after %s, %s of %s is something else", after, ref, all.repo)
		case here:
			d.wantBlobs(all, resp.Bytes)
		}
	}
}

func (d *deletions) wantBlobs(all *images, body []byte) {
	d.t.Helper()
	var m v1.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		d.t.Fatal(err)
	}
	if m.Config.Digest == "" {
		return
	}
	for _, b := range append(m.Layers, m.Config) {
		resp := d.api.Do("GET", "/v2/"+all.repo+"/blobs/"+b.Digest.String(), nil)
		if resp.StatusCode != http.StatusOK || string(resp.Bytes) != string(all.blobs[b.Digest.String()]) {
			d.t.Errorf("blob %s of %s: status %d", b.Digest, all.repo, resp.StatusCode)
		}
	}
}
