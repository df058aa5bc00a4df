package crash

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/scrub"
	"github.com/berthregistry/berth/test/harness"
)

// upkeep are settings with which a collection and a scrub take seconds. They begin when they are asked for.
var upkeep = []string{
	"BERTH_COLLECTION_INTERVAL=0s", "BERTH_COLLECTION_GRACE=1s", "BERTH_COLLECTION_RATE=20", "BERTH_TRASH_KEEP=1s",
	"BERTH_SCRUB_INTERVAL=0s", "BERTH_SCRUB_RATE=64KiB", "BERTH_LOG_ACCESS=false",
}

// keeper is a registry of which much is garbage, and some is damaged.
type keeper struct {
	*world
	replica *harness.Server // has what the registry has
	kept    map[string]content
	images  []string // paths of manifests of this round
}

// TestKillUpkeep kills the server while it collects and scrubs, again and again. In the end it is as if neither had been killed: all that is needed is there, what is not is gone,
// what is damaged is known and given to nobody, and mended by a push, or by a replica in every other round.
func TestKillUpkeep(t *testing.T) {
	turns := max(rounds/8, 1)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, turns)
	k := &keeper{world: &world{t: t, rng: rand.New(rand.NewPCG(seed, 0))}}
	var err error
	if k.replica, err = harness.StartServer(harness.Binary(t), t.TempDir(), harness.Settings{}); err != nil {
		t.Fatal(err)
	}
	defer k.replica.Kill()
	dir := t.TempDir()
	for turn := range turns {
		t.Logf("round %d", turn)
		k.serve(dir)
		k.round(turn, dir)
		if t.Failed() {
			t.Fatalf("round %d of seed %d; the server's log ends with\n%s", turn, seed, k.server.LogTail())
		}
	}
}

// serve starts a server on the folder.
func (k *keeper) serve(dir string, env ...string) {
	k.t.Helper()
	var err error
	if k.server, err = harness.StartServer(harness.Binary(k.t), dir, harness.Settings{Env: slices.Concat(upkeep, env)}); err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(k.server.Kill)
}

func (k *keeper) round(turn int, dir string) {
	const images, garbage = 15, 40
	before := k.images
	k.push(turn, images)
	api := harness.NewAPI(k.t, k.server)
	wasted := make(map[string]content)
	for range garbage {
		c := makeContent(k.rng.Uint64(), 1+k.rng.IntN(8000), k.rng)
		k.pushBlob(api, "garbage", c)
		wasted["/v2/garbage/blobs/"+c.digest.String()] = c
	}
	for _, path := range before {
		api.Expect(http.StatusAccepted, "DELETE", path, nil)
	}
	api.Client.CloseIdleConnections()
	time.Sleep(2500 * time.Millisecond) // trash and grace
	k.stop()

	damaged := k.damage()
	var env []string
	if turn%2 == 1 {
		env = []string{"BERTH_SCRUB_REPLICA=" + k.replica.URL}
	}
	k.ask(gc.Job, scrub.Job)
	for range 1 + k.rng.IntN(3) {
		k.serve(dir, env...)
		time.Sleep(time.Duration(k.rng.IntN(5000)) * time.Millisecond)
		k.server.Kill()
		k.expireLeases()
		if env == nil {
			k.fsckFinds(int64(len(damaged)), "--deep")
		}
	}
	k.serve(dir, env...)
	k.wait(gc.Job, scrub.Job)
	if env != nil {
		k.verifyUpkeep(nil, wasted)
	} else {
		k.verifyUpkeep(damaged, wasted)
		api := harness.NewAPI(k.t, k.server)
		for path := range damaged {
			k.pushBlob(api, repositoryOf(path), k.kept[path])
		}
		api.Client.CloseIdleConnections()
		k.verifyUpkeep(nil, wasted)
	}
	// The blobs of what has left the trash have their grace period, too.
	time.Sleep(1500 * time.Millisecond)
	k.stop()
	k.ask(gc.Job)
	k.serve(dir)
	k.wait(gc.Job)
	k.stop()
	if env == nil {
		if r := k.fsck("--deep"); r.Leftover != 0 {
			k.t.Errorf("fsck finds %d leftovers", r.Leftover)
		}
	} else { // bytes of a mending that was cut off may be left
		k.fsck("--deep", "--repair")
	}
	files, rows := dataFiles(k.t, dir), k.rowKeys()
	slices.Sort(files)
	slices.Sort(rows)
	if !slices.Equal(files, rows) || len(rows) != len(k.kept) {
		k.t.Errorf("there are %d blobs that are needed, %d rows, %d files", len(k.kept), len(rows), len(files))
	}
}

func repositoryOf(path string) string { return filepath.Base(filepath.Dir(filepath.Dir(path))) }

// push pushes images to the registry and to the replica. They are what is kept from now on.
func (k *keeper) push(turn, images int) {
	k.t.Helper()
	k.kept, k.images = make(map[string]content), nil
	name := fmt.Sprintf("kept%d", turn)
	for i := range images {
		blobs := []content{makeContent(k.rng.Uint64(), 1+k.rng.IntN(12000), k.rng), makeContent(k.rng.Uint64(), 1+k.rng.IntN(12000), k.rng)}
		m := harness.NewBlob(oci.MediaTypeImage, harness.JSON(map[string]any{
			"schemaVersion": 2, "mediaType": oci.MediaTypeImage,
			"config": map[string]any{"mediaType": "application/octet-stream", "digest": blobs[0].digest.String(), "size": blobs[0].size},
			"layers": []any{map[string]any{"mediaType": "application/octet-stream", "digest": blobs[1].digest.String(), "size": blobs[1].size}},
		}))
		for _, server := range []*harness.Server{k.server, k.replica} {
			api := harness.NewAPI(k.t, server)
			for _, c := range blobs {
				k.pushBlob(api, name, c)
				k.kept["/v2/"+name+"/blobs/"+c.digest.String()] = c
			}
			api.PushManifest(name, fmt.Sprint(i), m)
			api.Client.CloseIdleConnections()
		}
		k.images = append(k.images, "/v2/"+name+"/manifests/"+m.Digest.String())
	}
}

func (k *keeper) pushBlob(api *harness.API, repository string, c content) {
	k.t.Helper()
	api.Expect(http.StatusCreated, "PUT", harness.WithDigest(api.StartUpload(repository), c.digest.String()), c.bytes())
}

// damage spoils some of what is kept, and returns that.
func (k *keeper) damage() map[string]content {
	k.t.Helper()
	keys := make(map[string]string)
	db := k.open()
	defer db.Close()
	blobs, err := db.StoredBlobs(k.t.Context(), 0, 1<<30)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, b := range blobs {
		keys[b.Digest] = b.Key
	}
	spoiled := make(map[string]content)
	paths := slices.Sorted(maps.Keys(k.kept))
	k.rng.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
	for i, path := range paths[:5] {
		c := k.kept[path]
		spoiled[path] = c
		file := filepath.Join(k.server.Dir, "data", "blobs", filepath.FromSlash(keys[c.digest.String()]))
		switch i {
		case 0:
			err = os.Remove(file)
		case 1:
			err = os.Truncate(file, int64(c.size)-1)
		default:
			b := c.bytes()
			b[k.rng.IntN(len(b))] ^= 1
			err = os.WriteFile(file, b, 0o600)
		}
		if err != nil {
			k.t.Fatal(err)
		}
	}
	return spoiled
}

// open opens the database, which no server has.
func (k *keeper) open() *meta.DB {
	k.t.Helper()
	db, err := meta.Open(k.t.Context(), filepath.Join(k.server.Dir, "data", "berth.db"), meta.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	return db
}

func (k *keeper) stop() {
	k.t.Helper()
	if err := k.server.Stop(); err != nil {
		k.t.Fatal(err)
	}
}

func (k *keeper) ask(jobs ...string) {
	k.t.Helper()
	db := k.open()
	defer db.Close()
	for _, name := range jobs {
		if err := db.AskJob(k.t.Context(), name); err != nil {
			k.t.Fatal(err)
		}
	}
}

// expireLeases ends the leases of the process that was killed, as time would.
func (k *keeper) expireLeases() {
	k.t.Helper()
	db := k.open()
	defer db.Close()
	jobs, err := db.Jobs(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	for _, j := range jobs {
		if j.Holder == "" {
			continue
		}
		if err := db.RenewJob(k.t.Context(), j.Name, j.Holder, -time.Second); err != nil {
			k.t.Fatal(err)
		}
	}
}

// wait waits until the jobs that were asked for have ended.
func (k *keeper) wait(jobs ...string) {
	k.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		db := k.look()
		done := true
		for _, name := range jobs {
			j, err := db.Job(k.t.Context(), name)
			if err != nil {
				k.t.Fatal(err)
			}
			done = done && !j.Asked && j.Holder == ""
			if j.Error != "" {
				k.t.Errorf("%s: %s", name, j.Error)
			}
		}
		db.Close()
		if done {
			return
		}
	}
	k.t.Fatalf("%v did not end", jobs)
}

// look opens the database beside the server.
func (k *keeper) look() *meta.DB {
	k.t.Helper()
	db, err := meta.OpenReadOnly(k.t.Context(), filepath.Join(k.server.Dir, "data", "berth.db"), meta.Options{})
	if err != nil {
		k.t.Fatal(err)
	}
	return db
}

// verifyUpkeep compares what there is with what should be after a collection and a scrub.
func (k *keeper) verifyUpkeep(damaged, wasted map[string]content) {
	k.t.Helper()
	api := harness.NewAPI(k.t, k.server)
	defer api.Client.CloseIdleConnections()
	for path, c := range k.kept {
		if _, bad := damaged[path]; bad {
			if resp := api.Do("GET", path, nil); resp.StatusCode != http.StatusNotFound || resp.Code() != "BLOB_UNKNOWN" {
				k.t.Errorf("GET of damaged %s: %d %s", path, resp.StatusCode, resp.Code())
			}
			if resp := api.Do("HEAD", path, nil); resp.StatusCode != http.StatusNotFound {
				k.t.Errorf("HEAD of damaged %s: %d", path, resp.StatusCode)
			}
			continue
		}
		if resp := api.Do("GET", path, nil); resp.StatusCode != http.StatusOK || !bytes.Equal(resp.Bytes, c.bytes()) {
			k.t.Errorf("%s: %d, %d bytes of %d", path, resp.StatusCode, len(resp.Bytes), c.size)
		}
	}
	for _, path := range k.images {
		api.Expect(http.StatusOK, "GET", path, nil)
	}
	for path := range wasted {
		api.Expect(http.StatusNotFound, "GET", path, nil)
	}
	db := k.look()
	defer db.Close()
	counts, err := db.CountDamaged(k.t.Context())
	if err != nil || counts[meta.Rotten]+counts[meta.Missing] != int64(len(damaged)) || counts[meta.Unreadable] != 0 {
		k.t.Errorf("damaged: %v, %v, expected %d", counts, err, len(damaged))
	}
	j, err := db.Job(k.t.Context(), scrub.Job)
	if err != nil {
		k.t.Fatal(err)
	}
	state, err := scrub.StateOf(j)
	if err != nil || state.Pass != nil || state.Last == nil {
		k.t.Fatalf("the scrub is at %+v, %v", state, err)
	}
	if p := state.Last; damaged != nil && (p.Blobs < int64(len(k.kept)) || p.Damaged != int64(len(damaged))) {
		k.t.Errorf("the scrub has read %+v, of %d blobs that are needed", p, len(k.kept))
	}
	blobs, err := db.StoredBlobs(k.t.Context(), 0, 1<<30)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, b := range blobs {
		if at, err := db.Verified(k.t.Context(), b.ID); err != nil || at.Before(state.Last.Began.Truncate(time.Millisecond)) {
			k.t.Errorf("blob %s was verified at %s, %v; the scrub began at %s", b.Digest, at, err, state.Last.Began)
		}
	}
}
