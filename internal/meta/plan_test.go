package meta

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/oci"
)

// plan returns how SQLite would run a statement.
func plan(t *testing.T, db *DB, text string) []string {
	t.Helper()
	args := 0
	for _, m := range regexp.MustCompile(`\$(\d+)`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		args = max(args, n)
	}
	rows, err := db.read.Query("EXPLAIN QUERY PLAN "+text, make([]any, args)...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, detail)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// statements returns every SQL text that a database has used.
func statements(t *testing.T, db *DB) []string {
	t.Helper()
	texts := make(map[string]bool)
	lite(db).mu.RLock()
	for s := range lite(db).stmts {
		texts[s] = true
	}
	lite(db).mu.RUnlock()
	if err := db.update(t.Context(), func(*tx) error { // in the goroutine that they belong to
		for s := range lite(db).writer.stmts {
			texts[s] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(texts))
}

// exercise calls every method that may be called while the registry serves.
func exercise(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, b := digestOf("a"), digestOf("b")
	must(db.Check(ctx))
	_, _, err := db.Totals(ctx)
	must(err)
	key := commit(t, db, "r", a, at(0))
	must(db.CommitBlob(ctx, NewBlob{Repository: "r", Digest: a, Key: newKey(), Broken: key, Now: at(0)}))
	mount(t, db, "s", a, at(0))
	must(db.MountBlob(ctx, "s", "r", a, at(0)))
	must(db.TouchBlob(ctx, "s", a, at(0)))
	n := document{seed: 1, blobs: []oci.Digest{a}, foreign: []oci.Digest{b}, subject: b, notes: map[string]string{"k": "v"}}.build(t, "r", at(0), "t")
	n.Condition = func(oci.Digest) bool { return true }
	allow := func(oci.Tag, oci.Digest) error { return nil }
	n.Allow, n.Origin.Audit = allow, true
	put(t, db, n)
	commit(t, db, "r", b, at(0)) // arrives late
	put(t, db, document{seed: 2, foreign: []oci.Digest{digestOf("away")}}.build(t, "r", at(0), "t"))
	put(t, db, document{seed: 3, manifests: []oci.Digest{n.Digest}}.build(t, "r", at(0), "x", "y"))
	for _, ref := range []oci.Reference{byTag("t"), byDigest(n.Digest)} {
		_, err := db.Manifest(ctx, "r", ref, true)
		if ref.IsDigest() && err == nil {
			_, err = db.ManifestPart(ctx, "r", ref.Digest, 0, 10)
		}
		must(err)
	}
	_, err = db.Blob(ctx, "r", a)
	must(err)
	_, err = db.Tags(ctx, "r", "", 10)
	must(err)
	_, err = db.TagLog(ctx, "r", "t")
	must(err)
	_, err = db.Repositories(ctx, "", 10)
	must(err)
	_, err = db.SearchRepositories(ctx, "r", "", 10)
	must(err)
	_, _, err = db.Referrers(ctx, "r", b, "", 0, 10, 10)
	must(err)
	_, err = db.SettingOr(ctx, "s", []byte("v"))
	must(err)
	must(db.SetSetting(ctx, "s", []byte("w")))
	must(db.DeleteSetting(ctx, "s"))
	u := Upload{ID: "u", Repository: "r", Key: "k", Algorithm: oci.SHA256, Updated: at(0)}
	save(t, db, u, true)
	save(t, db, u, false)
	_, err = db.Upload(ctx, "r", "u")
	must(err)
	must(db.CancelUpload(ctx, "r", "u", oci.SHA256, 0, at(0)))
	must(db.CancelUpload(ctx, "r", "v", oci.SHA256, 0, at(0)))
	u.ID, u.Key = "w", "kw"
	save(t, db, u, true)
	must(db.CommitBlob(ctx, NewBlob{Repository: "r", Digest: digestOf("w"), Key: "kw", Upload: "w", Now: at(0)}))
	_, err = db.ExpireUploads(ctx, at(10), 10, at(10))
	must(err)
	_, err = db.KnownKey(ctx, key)
	must(err)
	_, err = db.DoomOrphan(ctx, "orphan", at(0))
	must(err)
	_, err = db.Doomed(ctx, "", 10)
	must(err)
	must(db.Buried(ctx, []string{"orphan"}))
	for range 2 { // the first time it is not known yet
		_, _, err = db.StartJob(ctx, "j", "h", 0, 0, time.Hour)
		must(err)
	}
	must(db.AskJob(ctx, "j"))
	must(db.PauseJob(ctx, "j", "me"))
	must(db.ResumeJob(ctx, "j"))
	must(db.SetJobState(ctx, "j", "h", "{}"))
	must(db.RenewJob(ctx, "j", "h", time.Hour))
	must(db.EndJob(ctx, "j", "h", "", nil))
	_, err = db.Jobs(ctx)
	must(err)
	_, _, err = db.StartJob(ctx, "j", "h", 0, 0, time.Hour)
	must(err)
	must(db.ReleaseJob(ctx, "j", "h"))
	limit := int64(1 << 40)
	must(db.SetQuota(ctx, Quota{Organization: "r", Bytes: &limit, Warn: 80}))
	commit(t, db, "r", digestOf("limited"), at(0))
	_, err = db.Usage(ctx, "r")
	must(err)
	_, err = db.Usages(ctx, "", 10)
	must(err)
	_, err = db.SharedBytes(ctx, "r")
	must(err)
	_, err = db.RepositorySpaces(ctx, "r", "", 10)
	must(err)
	_, err = db.TagSpaces(ctx, "r", "", 10)
	must(err)
	_, err = db.TrashTotal(ctx, 10)
	must(err)
	_, err = db.TagSpace(ctx, "r", "t")
	must(err)
	_, err = db.Standing(ctx, "r")
	must(err)
	_, err = db.Standings(ctx, "", 10)
	must(err)
	must(db.SetQuota(ctx, Quota{Organization: "r", Bytes: new(int64), Deduplicated: true, Warn: 80}))
	must(db.CheckRoom(ctx, "r", a, 10))
	must(db.DeleteQuota(ctx, "r"))
	_, err = db.BackupRuns(ctx)
	must(err)
	exerciseJournal(t, db)
	must(db.DeleteTag(ctx, "r", "t", Origin{}, at(0)))
	must(db.DeleteManifest(ctx, "r", n.Digest, allow, Origin{}, at(0)))
	exerciseHistory(t, db)
	must(db.DeleteBlob(ctx, "s", a, Origin{}, at(0)))
	stored, err := db.StoredBlobs(ctx, 0, 10)
	must(err)
	damaged := stored[0]
	_, err = db.MarkDamaged(ctx, damaged.ID, damaged.Key, Rotten, "", at(0))
	must(err)
	_, err = db.DamagedBlobs(ctx, 0, 10)
	must(err)
	_, err = db.CountDamaged(ctx)
	must(err)
	_, err = db.Holders(ctx, damaged.ID, 10)
	must(err)
	must(db.ClearDamage(ctx, damaged.ID, damaged.Key))
	must(db.ReplaceObject(ctx, damaged.ID, damaged.Key, newKey(), 0, at(0)))
	must(db.NoteVerified(ctx, 0, damaged.ID, at(0)))
	_, err = db.Verified(ctx, damaged.ID)
	must(err)
	_, err = db.AllVerifiedSince(ctx)
	must(err)
	_, err = db.LastBlob(ctx)
	must(err)
	exerciseRights(t, db)
	exercisePolicies(t, db)
	exercisePulls(t, db)
	exerciseCascade(t, db)
	exerciseRetention(t, db)
	if got := collectAll(t, db); got.Links == 0 {
		t.Fatal("nothing was collected")
	}
}

// exerciseHistory calls every method of the history and the trash.
func exerciseHistory(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	trashed := func(seed any) NewManifest {
		n := image(t, db, "trash", seed, "t")
		must(t, db.DeleteManifest(ctx, "trash", n.Digest, nil, Origin{Trash: true, Audit: true}, at(1)))
		return n
	}
	n := trashed(1)
	_, err := db.Trash(ctx, "trash", TrashPlace{}, 10)
	must(t, err)
	_, err = db.TrashedRepositories(ctx, "", "", 10)
	must(t, err)
	_, err = db.EmptyTrash(ctx, "trash", n.Digest, 10, Origin{Audit: true}, at(2))
	must(t, err)
	trashed(2)
	_, err = db.EmptyTrash(ctx, "trash", oci.Digest{}, 10, Origin{}, at(2))
	must(t, err)
	trashed(3)
	_, err = db.ExpireTrash(ctx, at(2), 10, at(2))
	must(t, err)
	n = trashed(4)
	allow := func(oci.Tag, oci.Digest, oci.Digest) error { return nil }
	_, err = db.Undelete(ctx, "trash", n.Digest, allow, Origin{Audit: true}, at(3))
	must(t, err)
	trashed(5)
	_, _, err = db.RestoreTags(ctx, "trash", []TagRestore{{"t", oci.Digest{}, n.Digest}, {"x", oci.Digest{}, oci.Digest{}}}, allow, Origin{Audit: true}, at(4))
	must(t, err)
	_, _, err = db.RestoreTags(ctx, "trash", []TagRestore{{"t", n.Digest, oci.Digest{}}}, allow, Origin{Audit: true}, at(5))
	must(t, err)
	for _, tag := range []oci.Tag{"t", ""} {
		_, err = db.TagMoves(ctx, "trash", tag, MovePlace{}, 10)
		must(t, err)
	}
	_, err = db.TagAt(ctx, "trash", "t", at(4))
	must(t, err)
	_, _, err = db.TagChanges(ctx, "trash", at(0), time.Time{}, "", 10)
	must(t, err)
	_, err = db.LoggedRepositories(ctx, "", "", 10)
	must(t, err)
	_, err = db.Whereabouts(ctx, "trash", []oci.Digest{n.Digest})
	must(t, err)
	c, err := db.Contents(ctx, "trash")
	must(t, err)
	_, err = db.DeleteManifests(ctx, "trash", c.LastManifest, 10, nil, Origin{}, at(6))
	must(t, err)
}

// exerciseJournal calls what writes the journal.
func exerciseJournal(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := db.JournalState(ctx)
	wantErr(t, err, ErrNotFound)
	must(db.SwapJournalState(ctx, nil, []byte("a")))
	must(db.SwapJournalState(ctx, []byte("a"), []byte("b")))
	wantErr(t, db.SwapJournalState(ctx, nil, []byte("c")), ErrLost)
	wantErr(t, db.SwapJournalState(ctx, []byte("a"), []byte("c")), ErrLost)
	since, err := db.JournalWaits(ctx)
	must(err)
	last, err := db.LastChange(ctx)
	must(err)
	c, err := db.JournalChanges(ctx)
	must(err)
	if since.IsZero() || len(c.Records) == 0 || c.Records[len(c.Records)-1].Change > last {
		t.Fatalf("%d changes wait since %s, up to %d", len(c.Records), since, last)
	}
	must(db.Settle(ctx))
	wantErr(t, db.Written(ctx, c, func([]byte) bool { return false }), ErrLost)
	must(db.Written(ctx, c, func(state []byte) bool { return string(state) == "b" }))
	for place, done := (JournalPlace{}), false; !done; {
		_, place, done, err = db.JournalCheckpoint(ctx, place)
		must(err)
	}
}

// scanned is what may be looked at row by row: no table, one row, what is all to be deleted or written, a page, the few jobs, keys and damaged blobs, a
// parameter, and the grants that an account has.
var scanned = []string{"CONSTANT", "one", "total", "doomed_object", "page", "job", "signing_key", "list", "g", "tree", "kept", "part", "its", "journal", "j", "sqlite_sequence", "damaged", "pull_record", "rights_version", "v"}

// anyAccount is content with the first row.
const anyAccount = `SELECT EXISTS (SELECT 1 FROM account)`

// sorting are the statements that may sort: the tags of a manifest, a parameter, the grants of an account, the members of a team.
var sorting = regexp.MustCompile(`FROM tag WHERE manifest_id = \$1 ORDER BY name|SELECT DISTINCT|AND g\.(account|team)_id = \(SELECT|FROM signing_key ORDER BY|AND m.team_id = t.id AND a.id = m.account_id`)

// unplanned are the statements that look at everything, and those that only PostgreSQL gets.
var unplanned = regexp.MustCompile(`^SELECT COUNT\(\*\) FROM upload WHERE storage_key IS NOT NULL$|FOR NO KEY UPDATE$|pg_sequence_last_value`)

// fused are the parts of the statements that find rights and manifest at once or ask whether rights have changed, which SQLite with its cache does not need.
var fused = regexp.MustCompile(`m\.size, CASE WHEN m\.size <= \$6|AND t\.name = \$5 LEFT JOIN|AND m\.digest = \$5$|FROM rights_version\) AS version`)

// Every statement finds its rows by an index, in every table, and needs no sorting.
func TestSQLiteStatementsUseIndexes(t *testing.T) {
	db := newDB(t)
	exercise(t, db)
	texts := statements(t, db)
	for _, text := range texts {
		for _, line := range plan(t, db, text) {
			switch {
			case text == anyAccount:
			case strings.HasPrefix(line, "SCAN ") && !slices.Contains(scanned, strings.Fields(line)[1]):
				t.Errorf("%s\nlooks at every row: %s", text, line)
			case strings.HasPrefix(line, "USE TEMP B-TREE") && !sorting.MatchString(text):
				t.Errorf("%s\nsorts: %s", text, line)
			case strings.Contains(line, "AUTOMATIC"):
				t.Errorf("%s\nmakes an index of its own: %s", text, line)
			}
		}
	}
	// None is left out: each literal of the source that is SQL is part of a text that was planned.
	for _, literal := range literals(t) {
		if !unplanned.MatchString(literal) && !fused.MatchString(literal) && !slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, literal) }) {
			t.Errorf("no method that the test calls uses\n%s", literal)
		}
	}
}

// literals returns the SQL of the package's source, but for what is not used while the registry serves, and what is
// not for SQLite.
func literals(t *testing.T) []string {
	t.Helper()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	sql := regexp.MustCompile(`\b(SELECT|INSERT|UPDATE|DELETE|FROM|INTO)\s`)
	var found []string
	for _, f := range files {
		name := f.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || slices.Contains([]string{"check.go", "check_usage.go", "migrate.go", "move.go", "move_rows.go", "move_hold.go", "postgres.go", "lock.go", "rebuild.go", "backup.go"}, name) {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING && lit.Value[0] == '`' && sql.MatchString(lit.Value) {
				found = append(found, strings.Trim(lit.Value, "`"))
			}
			return true
		})
	}
	if len(found) < 30 {
		t.Fatalf("only %d statements found", len(found))
	}
	return found
}

// A foreign key is looked up from its end, too, when what it refers to is deleted.
func TestSQLiteForeignKeysHaveIndexes(t *testing.T) {
	db := newDB(t)
	rows, err := db.read.Query(`SELECT s.name, f.id, f."from" FROM sqlite_schema s, pragma_foreign_key_list(s.name) f WHERE s.type = 'table' ORDER BY 1, 2, f.seq`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	keys := make(map[string][]string)
	for rows.Next() {
		var table, column string
		var id int
		if err := rows.Scan(&table, &id, &column); err != nil {
			t.Fatal(err)
		}
		k := fmt.Sprint(table, " ", id)
		keys[k] = append(keys[k], column+" = 1")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	if len(keys) < 8 {
		t.Fatalf("only %d foreign keys: %v", len(keys), keys)
	}
	for k, conditions := range keys {
		table, _, _ := strings.Cut(k, " ")
		p := plan(t, db, "SELECT 1 FROM "+table+" WHERE "+strings.Join(conditions, " AND "))
		if len(p) != 1 || !strings.HasPrefix(p[0], "SEARCH") {
			t.Errorf("%s by %v: %v", table, conditions, p)
		}
	}
}
