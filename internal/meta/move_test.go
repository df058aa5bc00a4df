package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
)

// leftOut are the tables that a move does not take, and why.
var leftOut = map[string]string{
	"sign_in_failure":    "slows down who signs in here",
	"job":                "tells when the nodes of one installation did what",
	"schema_migration":   "the target has its own",
	"setting":            "some are taken as facts",
	"total":              "kept by triggers",
	"organization_usage": "kept by triggers",
	"organization_blob":  "kept by triggers",
	"upload":             "clients begin again",
	"doomed_object":      "bytes that stay behind",
	"moved_object":       "is there during a move only",
	"journal":            "the target begins its own with everything in it",
	"damaged_blob":       "tells of objects that stay behind; what cannot be copied is not moved",
	"verified_blobs":     "tells of objects that stay behind",
	"rights_version":     "is random, and the target's own",
	"pull_record":        "the target notes pulls since it was made",
}

// columns returns the columns of every table.
func columns(t *testing.T, db *DB) map[string][]string {
	t.Helper()
	text := `SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'`
	if !db.embedded() {
		text = `SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()`
	}
	found := make(map[string][]string)
	if err := db.query(t.Context(), func(scan func(...any) error) error {
		var table, column string
		err := scan(&table, &column)
		found[table] = append(found[table], column)
		return err
	}, text); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestMoveTakesEveryTable fails when the schema gets a table or a column that nobody has thought about here.
func TestMoveTakesEveryTable(t *testing.T) {
	schema := columns(t, newDB(t))
	for _, table := range MovedTables() {
		want := slices.Sorted(slices.Values(table.columns))
		if got := slices.Sorted(slices.Values(schema[table.Name])); !slices.Equal(got, want) {
			t.Errorf("table %s has the columns %v, a move takes %v", table.Name, got, want)
		}
		delete(schema, table.Name)
	}
	for name := range schema {
		if leftOut[name] == "" {
			t.Errorf("a move does not take the table %s: is that right?", name)
		}
	}
}

// movedTable returns a table that a move takes.
func movedTable(t *testing.T, name string) Table {
	t.Helper()
	for _, table := range MovedTables() {
		if table.Name == name {
			return table
		}
	}
	t.Fatalf("a move does not take the table %s", name)
	return Table{}
}

// fill makes n images in several repositories, with what else there is.
func fill(t *testing.T, db *DB, n int) {
	t.Helper()
	people(t, db)
	limit := int64(1 << 40)
	if err := db.SetQuota(t.Context(), Quota{Organization: "team", Bytes: &limit, Warn: 80}); err != nil {
		t.Fatal(err)
	}
	protect(t, db, "elsewhere", "v*")
	must(t, db.SetFreeze(t.Context(), &Freeze{Freeze: policy.Freeze{Organization: "elsewhere", Message: "closed"}, By: "root", Since: at(0)}))
	for i := range n {
		r := oci.Repository(fmt.Sprintf("team/app%d", i%7))
		m := image(t, db, r, fmt.Sprint("image ", i), "latest", "v1")
		put(t, db, document{seed: i, blobs: []oci.Digest{digestOf(fmt.Sprint("blob of image ", i))}, foreign: []oci.Digest{digestOf(i)},
			subject: m.Digest, artifact: strings.Repeat("x", i%50), notes: map[string]string{"ü": "\x01"}}.build(t, r, at(int64(i))))
		put(t, db, document{seed: i, manifests: []oci.Digest{m.Digest, digestOf("absent")}}.build(t, r, at(int64(i)), "index"))
		commit(t, db, r, digestOf(fmt.Sprint("spare", i)), at(int64(i)))
	}
	for i := range 3 { // the last of the trash
		n := image(t, db, "team/app0", fmt.Sprint("trashed ", i), "trashed")
		if err := db.DeleteManifest(t.Context(), "team/app0", n.Digest, nil, Origin{Actor: "tester", Credential: "ci", Method: "delete", Trash: true}, at(int64(i))); err != nil {
			t.Fatal(err)
		}
	}
	// The last numbers belong to what is gone.
	gone := image(t, db, "gone", "gone", "gone")
	if err := db.DeleteManifest(t.Context(), "gone", gone.Digest, nil, Origin{Actor: "tester", Method: "delete"}, at(0)); err != nil {
		t.Fatal(err)
	}
	if err := db.DeleteBlob(t.Context(), "gone", digestOf("blob of gone"), Origin{}, at(0)); err != nil {
		t.Fatal(err)
	}
}

// begin makes to the target of a move from db, with all objects noted.
func begin(t *testing.T, db, to *DB) {
	t.Helper()
	if _, err := db.SettingOr(t.Context(), keySetting, []byte("a random key")); err != nil {
		t.Fatal(err)
	}
	identity, err := db.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.BeginMove(t.Context(), identity, at(0)); err != nil {
		t.Fatal(err)
	}
	blobs, err := db.MovingBlobs(t.Context(), 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		b.Key = newKey()
		if err := to.NoteMoved(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

// copyTables copies all rows and returns the sums of both sides.
func copyTables(t *testing.T, from, to *DB) (read, written []TableSum) {
	t.Helper()
	for _, table := range MovedTables() {
		read = append(read, eachRows(t, from, table, func(page *Rows) {
			if err := to.AddRows(t.Context(), page, true); err != nil {
				t.Fatal(err)
			}
		}))
		written = append(written, eachRows(t, to, table, func(*Rows) {}))
	}
	return read, written
}

func eachRows(t *testing.T, db *DB, table Table, f func(*Rows)) (sum TableSum) {
	t.Helper()
	for page := (*Rows)(nil); ; {
		var err error
		if page, err = db.TableRows(t.Context(), table, page); err != nil {
			t.Fatal(err)
		}
		if page.Len() == 0 {
			return sum
		}
		sum.Add(page)
		f(page)
	}
}

// The target has all rows with their numbers, and goes on where the source would have.
func TestMoveRows(t *testing.T) {
	from, to := newDB(t), newDB(t)
	fill(t, from, 300)
	protect(t, from, "team", "v*")
	must(t, from.SetFreeze(t.Context(), &Freeze{Freeze: policy.Freeze{Organization: "frozen"}}))
	exercisePulls(t, from)
	must(t, from.AddRetention(t.Context(), new(Retention)))
	begin(t, from, to)
	if err := to.CheckComplete(t.Context()); !errors.Is(err, ErrMoving) {
		t.Errorf("an unfinished target is %v", err)
	}
	stray := MovingBlob{ID: 1 << 40, Digest: digestOf("collected meanwhile").String(), Size: 1, Key: newKey()}
	if err := to.NoteMoved(t.Context(), stray); err != nil {
		t.Fatal(err)
	}
	read, written := copyTables(t, from, to)
	for i, table := range MovedTables() {
		if read[i] != written[i] || read[i].Rows != int64(count(t, from, table.Name)) || read[i].Rows == 0 {
			t.Errorf("table %s: read %v, written %v", table.Name, read[i], written[i])
		}
	}
	facts, err := from.MovingFacts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := to.FinishMove(t.Context(), facts, at(0)); err != nil {
		t.Fatal(err)
	}
	if err := to.CheckComplete(t.Context()); err != nil {
		t.Errorf("a finished target: %v", err)
	}
	if key, err := to.Setting(t.Context(), keySetting); err != nil || string(key) != "a random key" {
		t.Errorf("the key that signs sessions is %q, %v", key, err)
	}
	if doomed, err := to.Doomed(t.Context(), "", 10); err != nil || !slices.Equal(doomed, []string{stray.Key}) {
		t.Errorf("doomed: %v, %v", doomed, err)
	}
	if _, ok := columns(t, to)["moved_object"]; ok {
		t.Error("the table moved_object is still there")
	}

	// Numbers that the source gave to what is gone are not given again.
	for _, db := range []*DB{from, to} {
		image(t, db, "next", "next", "next")
		users(t, db, "next")
	}
	for _, query := range []string{`SELECT id FROM repository WHERE name = 'next'`, `SELECT MAX(id) FROM blob`, `SELECT MAX(id) FROM manifest`, `SELECT MAX(id) FROM tag_log`, `SELECT MAX(id) FROM account`} {
		var ids [2]int64
		for i, db := range []*DB{from, to} {
			if err := db.read.QueryRow(query).Scan(&ids[i]); err != nil {
				t.Fatal(err)
			}
		}
		if ids[0] != ids[1] {
			t.Errorf("%s: %d at the source, %d at the target", query, ids[0], ids[1])
		}
	}
}

// A blob whose moved object is another one's is not taken.
func TestMoveNeedsObjects(t *testing.T) {
	from, to := newDB(t), newDB(t)
	commit(t, from, "r", digestOf("a"), at(0))
	begin(t, from, to)
	table := movedTable(t, "blob")
	page, err := from.TableRows(t.Context(), table, nil)
	if err != nil || page.Len() != 1 {
		t.Fatal(page, err)
	}
	for _, change := range []string{`UPDATE moved_object SET size = size + 1`, `UPDATE moved_object SET size = size - 1, digest = 'x'`, `DELETE FROM moved_object`} {
		if err := to.update(t.Context(), func(x *tx) error { _, err := x.exec(change); return err }); err != nil {
			t.Fatal(err)
		}
		if err := to.AddRows(t.Context(), page, true); err == nil || !strings.Contains(err.Error(), "write table blob: row [1]") {
			t.Errorf("after %s: %v", change, err)
		}
	}
	if n := count(t, to, "blob"); n != 0 {
		t.Errorf("there are %d blobs", n)
	}
}

func TestMoveIsRefused(t *testing.T) {
	now := at(0)
	for _, test := range []struct {
		name string
		make func(*testing.T, *DB)
		want error
	}{
		{"blob", func(t *testing.T, db *DB) { commit(t, db, "r", digestOf(1), now) }, ErrOccupied},
		{"upload", func(t *testing.T, db *DB) {
			save(t, db, Upload{ID: "u", Repository: "r", Key: "k", Algorithm: oci.SHA256, Updated: now}, true)
		}, ErrOccupied},
		{"doomed object", func(t *testing.T, db *DB) {
			if _, err := db.DoomOrphan(t.Context(), "k", now); err != nil {
				t.Fatal(err)
			}
		}, ErrOccupied},
		{"another move", func(t *testing.T, db *DB) {
			if _, err := db.BeginMove(t.Context(), "another", now); err != nil {
				t.Fatal(err)
			}
		}, ErrOtherMove},
		{"a key only", func(t *testing.T, db *DB) {
			if err := db.SetSetting(t.Context(), keySetting, []byte("k")); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			db := newDB(t)
			test.make(t, db)
			if _, err := db.BeginMove(t.Context(), "one", now); !errors.Is(err, test.want) {
				t.Errorf("the error is %v, expected %v", err, test.want)
			}
		})
	}
	db := newDB(t)
	if _, err := db.Identity(t.Context()); !errors.Is(err, ErrNeverServed) {
		t.Errorf("the identity of nothing: %v", err)
	}
	if err := db.ClearRows(t.Context()); err == nil {
		t.Error("the rows of a registry can be cleared")
	}
	if err := db.FinishMove(t.Context(), Facts{}, now); err == nil {
		t.Error("a move that never began can be finished")
	}
}

// A repeated BeginMove says since when there may be unfinished objects.
func TestMoveIsSwept(t *testing.T) {
	db := newDB(t)
	for i, want := range []int64{100, 100, 7300} {
		if i == 2 {
			if err := db.SweptMove(t.Context(), at(7300)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := db.BeginMove(t.Context(), "one", at(int64(100+i))); err != nil || !got.Equal(at(want)) {
			t.Errorf("beginning the move %d times before: %v, %v, expected %v", i, got, err, at(want))
		}
	}
	for i := range int64(3) {
		if err := db.NoteMoved(t.Context(), MovingBlob{ID: i, Digest: "d", Size: i, Key: fmt.Sprint("key", i)}); err != nil {
			t.Fatal(err)
		}
	}
	known, err := db.KnownMoved(t.Context(), []string{"key1", "key5", "key2"})
	if err != nil || len(known) != 2 || !known["key1"] || !known["key2"] {
		t.Errorf("known: %v, %v", known, err)
	}
	if objects, bytes, err := db.MovedTotals(t.Context()); err != nil || objects != 3 || bytes != 3 {
		t.Errorf("totals: %d, %d, %v", objects, bytes, err)
	}
}

// What an earlier attempt has copied can be thrown away and copied again.
func TestMoveClearsRows(t *testing.T) {
	from, to := newDB(t), newDB(t)
	fill(t, from, 20)
	begin(t, from, to)
	want, _ := copyTables(t, from, to)
	for range 2 {
		if err := to.ClearRows(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n, err := to.CountRows(t.Context()); err != nil || n != 0 {
			t.Errorf("%d rows are left, %v", n, err)
		}
		if blobs, bytes, err := to.Totals(t.Context()); err != nil || blobs != 0 || bytes != 0 {
			t.Errorf("the totals are %d and %d, %v", blobs, bytes, err)
		}
	}
	if _, got := copyTables(t, from, to); !slices.Equal(got, want) {
		t.Errorf("the second time it is %v, want %v", got, want)
	}
	blobs, bytes, err := from.Totals(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if b, n, err := to.Totals(t.Context()); err != nil || b != blobs || n != bytes {
		t.Errorf("the totals are %d and %d, %v, expected %d and %d", b, n, err, blobs, bytes)
	}
}

// A page of manifests does not hold more than fits, unless it is one.
func TestMovePagesAreBounded(t *testing.T) {
	db := newDB(t)
	commit(t, db, "r", digestOf("a"), at(0))
	sizes := []int{1 << 20, 2 << 20, 2 << 20, 6 << 20, 1, 1}
	for i, size := range sizes {
		put(t, db, document{seed: i, blobs: []oci.Digest{digestOf("a")}, notes: map[string]string{"x": strings.Repeat("x", size)}}.build(t, "r", at(0)))
	}
	var pages []int
	eachRows(t, db, movedTable(t, "manifest"), func(page *Rows) { pages = append(pages, page.Len()) })
	if want := []int{2, 1, 1, 2}; !slices.Equal(pages, want) {
		t.Errorf("the pages have %v rows, want %v", pages, want)
	}
}

// Any difference between rows makes another sum, their order and the store's keys aside.
func TestTableSum(t *testing.T) {
	table := Table{Name: "tag", columns: []string{"a", "b"}, key: 1}
	sum := func(table Table, rows ...[]any) (s TableSum) {
		s.Add(&Rows{table, rows})
		return s
	}
	base := sum(table, []any{int64(1), "x"}, []any{int64(2), nil})
	for _, same := range [][][]any{{{int64(2), nil}, {int64(1), "x"}}, {{int64(1), []byte("x")}, {int64(2), nil}}} {
		if sum(table, same...) != base {
			t.Errorf("%v has another sum", same)
		}
	}
	for _, other := range [][][]any{
		{{int64(1), "x"}}, {{int64(1), "x"}, {int64(2), ""}}, {{int64(1), "y"}, {int64(2), nil}}, {{int64(1), nil}, {int64(2), "x"}},
		{{int64(1), "x"}, {int64(2), nil}, {int64(2), nil}}, {{"x", int64(1)}, {int64(2), nil}}, {{int64(1), "x"}, {int64(2), int64(0)}},
	} {
		if sum(table, other...) == base {
			t.Errorf("%v has the same sum", other)
		}
	}
	blobs := movedTable(t, "blob")
	row := func(key string, at int64) []any { return []any{int64(1), "d", int64(2), key, at} }
	if sum(blobs, row("a", 1)) != sum(blobs, row("b", 1)) || sum(blobs, row("a", 1)) == sum(blobs, row("a", 2)) {
		t.Error("the key of a blob counts, or what comes after it does not")
	}
}

// Pages are read in the order of the primary key, from where the last one ended.
func TestSQLiteMoveUsesKeys(t *testing.T) {
	from, to := newDB(t), newDB(t)
	fill(t, from, 2)
	begin(t, from, to)
	copyTables(t, from, to)
	if _, err := to.MovedObjects(t.Context(), 0, 10, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := to.KnownMoved(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Needed(t.Context(), 1, 10); err != nil {
		t.Fatal(err)
	}
	planned := 0
	for _, text := range append(statements(t, from), statements(t, to)...) {
		if !strings.Contains(text, "LIMIT $") && !strings.Contains(text, "moved_object") || !strings.HasPrefix(text, "SELECT") {
			continue
		}
		planned++
		for _, line := range plan(t, to, text) {
			if strings.HasPrefix(line, "SCAN ") || strings.HasPrefix(line, "USE TEMP B-TREE") && !strings.Contains(text, "ORDER BY r.name") {
				t.Errorf("%s\n%s", text, line)
			}
		}
	}
	if want := len(MovedTables()) + 4; planned < want {
		t.Errorf("only %d statements were looked at, there are %d", planned, want)
	}
}

// A lock that lasts keeps no snapshot, which would keep every row version that is replaced meanwhile.
func TestMoveHoldsKeepNoRows(t *testing.T) {
	db := newDB(t)
	if db.embedded() {
		t.Skip("SQLite has no such locks")
	}
	for name, take := range map[string]func(context.Context) (*Hold, error){"HoldMove": db.HoldMove, "Freeze": db.Freeze} {
		h, err := take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var open, old int
		if err := db.read.QueryRow(`SELECT COUNT(*), COUNT(backend_xmin) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'idle in transaction'`).Scan(&open, &old); err != nil {
			t.Fatal(err)
		}
		if open != 1 || old != 0 {
			t.Errorf("%s: %d transactions are open, %d with a snapshot", name, open, old)
		}
		if err := h.Check(t.Context()); err != nil {
			t.Error(err)
		}
		h.Release()
		if err := h.Check(t.Context()); !errors.Is(err, ErrThawed) {
			t.Errorf("%s after its release: %v", name, err)
		}
	}
}
