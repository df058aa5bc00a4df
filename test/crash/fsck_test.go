package crash

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/harness"
)

// fsck checks the data folder and fails the test if content is damaged.
func (w *world) fsck(flags ...string) fsck.Report {
	w.t.Helper()
	return w.fsckFinds(0, flags...)
}

// fsckFinds checks the data folder and fails the test unless so much content is damaged.
func (w *world) fsckFinds(damaged int64, flags ...string) fsck.Report {
	w.t.Helper()
	args := append([]string{"fsck", "--json", "--data", filepath.Join(w.server.Dir, "data")}, flags...)
	cmd := exec.Command(harness.Binary(w.t), args...)
	cmd.Env = append(os.Environ(), w.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var report fsck.Report
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if e := json.Unmarshal(lines[len(lines)-1], &report); e != nil {
		w.t.Fatalf("berth %v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	if (err != nil) != (damaged > 0) || report.Damaged != damaged {
		w.t.Errorf("berth %v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	return report
}

// repair mends what the crash left, and checks that nothing is left.
func (w *world) repair() {
	w.t.Helper()
	w.killWhile("fsck", "--repair")
	w.fsck("--repair")
	if r := w.fsck(); r.Leftover != 0 {
		w.t.Errorf("after a repair, fsck still finds %d leftovers", r.Leftover)
	}
}

// killWhile starts berth on the data folder and kills it a moment later.
func (w *world) killWhile(args ...string) {
	w.t.Helper()
	cmd := exec.Command(harness.Binary(w.t), append(args, "--data", filepath.Join(w.server.Dir, "data"))...)
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(time.Duration(w.rng.IntN(150)) * time.Millisecond)
	cmd.Process.Kill()
	cmd.Wait()
}

// settle ends the test: what fsck left to the collector goes, so that in the end the files are
// exactly those that rows speak of.
func (w *world) settle() {
	w.t.Helper()
	if err := w.server.Stop(); err != nil {
		w.t.Error(err)
	}
	w.fsck("--deep", "--repair")
	server, err := harness.StartServer(harness.Binary(w.t), w.server.Dir, settings)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server = server
	var files, rows []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		files, rows = dataFiles(w.t, w.server.Dir), w.rowKeys()
		slices.Sort(files)
		slices.Sort(rows)
		if slices.Equal(files, rows) {
			return
		}
	}
	w.t.Errorf("rows speak of %d objects, %d are stored", len(rows), len(files))
}

// rowKeys returns the keys that blobs and uploads have.
func (w *world) rowKeys() (keys []string) {
	w.t.Helper()
	db, err := meta.OpenReadOnly(w.t.Context(), filepath.Join(w.server.Dir, "data", "berth.db"), meta.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	blobs, err := db.StoredBlobs(w.t.Context(), 0, 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range blobs {
		keys = append(keys, b.Key)
	}
	uploads, err := db.StoredUploads(w.t.Context(), "", 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, u := range uploads {
		keys = append(keys, u.Key)
	}
	return keys
}
