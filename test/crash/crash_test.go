package crash

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/harness"
)

const (
	clients = 10
	// lifetime is after how many rounds a repository is deleted, so that the cost of a
	// round does not grow.
	lifetime = 4
)

// settings let the collector run while the clients push; the grace period is the usual one, since
// what was acknowledged must stay. Without a trash, blobs can be deleted after their manifests.
var settings = harness.Settings{Env: []string{"BERTH_COLLECTION_INTERVAL=1s", "BERTH_TRASH_KEEP=0", "BERTH_LOG_ACCESS=false"}}

// world is the data folder with those who use it.
type world struct {
	t      *testing.T
	rng    *rand.Rand
	server *harness.Server
	env    []string // where the data is, if not in the folder
	market *market
	common []content
	all    []*client // of every repository that is not retired
}

// TestKill is the crash test: acknowledged content survives, nothing partial is
// visible, uploads go on, fsck finds no damage.
func TestKill(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d rounds", seed, rounds)
	w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 0)), market: &market{offers: make(map[offer]bool)}}
	for range 4 {
		w.common = append(w.common, makeContent(w.rng.Uint64(), 1+w.rng.IntN(100_000), w.rng))
	}
	var err error
	if w.server, err = harness.StartServer(harness.Binary(t), t.TempDir(), settings); err != nil {
		t.Fatal(err)
	}
	defer func() { w.server.Kill() }()
	done := 0
	for round := range rounds {
		done += w.push(round)
		w.fsck("--deep")
		if round%3 == 2 {
			w.repair()
		}
		if round%4 == 3 {
			w.killWhile("serve", "--listen", "127.0.0.1:0")
		}
		if err := w.server.Restart(); err != nil {
			t.Fatal(err)
		}
		w.verify(round)
		if t.Failed() {
			t.Fatalf("round %d of seed %d; the server's log ends with\n%s", round, seed, w.server.LogTail())
		}
	}
	t.Logf("%d operations were acknowledged", done)
	if done < 10*rounds {
		t.Errorf("%d acknowledged operations in %d rounds test too little", done, rounds)
	}
	w.settle()
}

// push has clients push until the server is killed, and returns how much was acknowledged.
func (w *world) push(round int) (done int) {
	// Half of the clients go on in a repository that they know.
	working := slices.Clone(w.all)
	w.rng.Shuffle(len(working), func(i, j int) { working[i], working[j] = working[j], working[i] })
	working = working[:min(len(working), clients/2)]
	for i := len(working); i < clients; i++ {
		c := &client{
			t: w.t, api: harness.NewAPI(w.t, w.server), market: w.market, common: w.common,
			rng:  rand.New(rand.NewPCG(w.rng.Uint64(), 0)),
			repo: newRepository(fmt.Sprintf("crash/r%d/c%d", round, i), round),
		}
		working, w.all = append(working, c), append(w.all, c)
	}
	var wg sync.WaitGroup
	for _, c := range working {
		c.done = 0
		wg.Go(func() { c.run(w.t.Context()) })
	}
	time.Sleep(time.Duration(w.rng.IntN(800)) * time.Millisecond)
	w.server.Kill()
	wg.Wait()
	for _, c := range working {
		c.api.Client.CloseIdleConnections()
		done += c.done
	}
	return done
}

// verify looks at everything that clients were told of, and deletes what is old.
func (w *world) verify(round int) {
	var wg sync.WaitGroup
	for _, c := range w.all {
		wg.Go(c.verify)
	}
	wg.Wait()
	db, err := meta.OpenReadOnly(w.t.Context(), filepath.Join(w.server.Dir, "data", "berth.db"), meta.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	var want []string
	for _, c := range w.all {
		c.verifyLog(db)
		if len(c.repo.manifests) > 0 {
			want = append(want, c.repo.name)
		}
	}
	slices.Sort(want)
	var catalog struct{ Repositories []string }
	resp := harness.NewAPI(w.t, w.server).Expect(200, "GET", "/v2/_catalog", nil)
	if err := json.Unmarshal(resp.Bytes, &catalog); err != nil {
		w.t.Fatal(err)
	}
	if !slices.Equal(catalog.Repositories, want) {
		w.t.Errorf("the catalog is\n%v, expected\n%v", catalog.Repositories, want)
	}
	if w.t.Failed() {
		return
	}
	w.all = slices.DeleteFunc(w.all, func(c *client) bool {
		old := round-c.repo.born >= lifetime
		if old {
			wg.Go(c.retire)
		}
		return old
	})
	wg.Wait()
}

// dataFiles returns the keys of all stored objects.
func dataFiles(t *testing.T, dir string) (keys []string) {
	t.Helper()
	root := filepath.Join(dir, "data", "blobs")
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err == nil && path == filepath.Join(root, "journal") {
			return filepath.SkipDir
		}
		if err == nil && e.Type().IsRegular() && e.Name()[0] != '.' {
			key, _ := filepath.Rel(root, path)
			keys = append(keys, filepath.ToSlash(key))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
