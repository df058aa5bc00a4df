package meta

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// What was acknowledged survives a kill -9, and what was not is there wholly or not at all.
func TestSQLiteAcknowledgedSurvivesKill(t *testing.T) {
	if path := os.Getenv(childVariable); path != "" {
		pushUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "berth.db")
	facts := make(map[string]string) // what was last done to an object: "+" began, "-" was acknowledged
	total := 0
	for round := range max(2, rounds(8)) {
		total += runAndKill(t, path, round, facts)
		db, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		audit(t, db)
		wantFacts(t, db, facts)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total < 100 {
		t.Errorf("only %d changes were acknowledged", total)
	}
	t.Logf("%d changes were acknowledged", total)
}

// runAndKill lets a process push for a while, kills it and returns how many changes it acknowledged.
func runAndKill(t *testing.T, path string, round int, facts map[string]string) (acknowledged int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSQLiteAcknowledgedSurvivesKill$", "-test.count=1")
	cmd.Env = append(os.Environ(), childVariable+"="+path, fmt.Sprint("META_TEST_ROUND=", round))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := 50 + rand.IntN(400)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		sign, rest, _ := strings.Cut(lines.Text(), " ")
		op, object, ok := strings.Cut(rest, " ")
		if !ok || sign != "+" && sign != "-" {
			t.Errorf("the process said %q", lines.Text())
			continue
		}
		facts[object] = sign + op
		if sign == "-" {
			acknowledged++
		}
		if acknowledged == stop {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || acknowledged < stop {
		t.Fatalf("the process ended by itself after %d changes: %v", acknowledged, err)
	}
	return acknowledged
}

// pushUntilKilled tells on standard output of each change when it begins and when it is acknowledged.
func pushUntilKilled(t *testing.T, path string) {
	db, err := Open(context.Background(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	do := func(op, object string, change func() error) {
		fmt.Fprintf(os.Stdout, "+ %s %s\n", op, object) // one write each, so lines stay whole
		if err := change(); err != nil {
			panic(fmt.Sprint(op, " ", object, ": ", err))
		}
		fmt.Fprintf(os.Stdout, "- %s %s\n", op, object)
	}
	ctx := context.Background()
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			r := oci.Repository(fmt.Sprintf("r%d", g))
			for i := 0; ; i++ {
				id := fmt.Sprintf("%s %s.%d.%d", r, os.Getenv("META_TEST_ROUND"), g, i)
				_, seed, _ := strings.Cut(id, " ")
				blob, key := digestOf(seed), "key-"+seed
				u := &Upload{ID: seed, Repository: r, Key: key, Size: 1, Algorithm: oci.SHA256, Updated: time.Now()}
				do("save", "upload "+id, func() error { return db.SaveUpload(ctx, u, true) })
				do("commit", "blob "+id, func() error {
					return db.CommitBlob(ctx, NewBlob{Repository: r, Digest: blob, Size: 10, Key: key, Upload: seed, Now: time.Now()})
				})
				n := document{seed: seed, blobs: []oci.Digest{blob}}.build(t, r, time.Now(), "latest", oci.Tag("t"+seed))
				do("put", "manifest "+id, func() error { _, err := db.PutManifest(ctx, n); return err })
				switch i % 4 {
				case 1:
					do("untag", "manifest "+id, func() error { return db.DeleteTag(ctx, r, oci.Tag("t"+seed), n.Origin, time.Now()) })
				case 2:
					do("delete", "manifest "+id, func() error { return db.DeleteManifest(ctx, r, n.Digest, nil, n.Origin, time.Now()) })
				}
			}
		})
	}
	all.Wait()
}

func wantFacts(t *testing.T, db *DB, facts map[string]string) {
	t.Helper()
	for object, fact := range facts {
		f := strings.Fields(object)
		kind, r, seed := f[0], oci.Repository(f[1]), f[2]
		blob := digestOf(seed)
		switch kind {
		case "blob":
			b, err := db.Blob(t.Context(), r, blob)
			if fact == "-commit" && (err != nil || b.Key != "key-"+seed) {
				t.Errorf("acknowledged blob %s: %+v, %v", seed, b, err)
			}
		case "manifest":
			n := document{seed: seed, blobs: []oci.Digest{blob}}.build(t, r, time.Now())
			m, err := db.Manifest(t.Context(), r, byDigest(n.Digest), true)
			tagged, tagErr := db.Manifest(t.Context(), r, byTag(oci.Tag("t"+seed)), false)
			if err == nil && string(m.Body) != string(n.Body) || tagErr == nil && tagged.Digest != n.Digest {
				t.Errorf("manifest %s is there, but not as it was pushed", seed)
			}
			there := map[string][2]bool{"-put": {true, true}, "-untag": {true, false}, "-delete": {false, false}}
			if want, ok := there[fact]; ok && want != [2]bool{err == nil, tagErr == nil} {
				t.Errorf("after %s of manifest %s it is there: %v, its tag: %v", fact, seed, err == nil, tagErr == nil)
			}
			if fact == "+put" && (err == nil) != (tagErr == nil) {
				t.Errorf("manifest %s was put by half", seed)
			}
		case "upload":
			if _, committed := facts["blob "+f[1]+" "+seed]; committed {
				continue
			}
			if u, err := db.Upload(t.Context(), r, seed); fact == "-save" && (err != nil || u.Key != "key-"+seed) {
				t.Errorf("acknowledged upload %s: %+v, %v", seed, u, err)
			}
		}
	}
}
