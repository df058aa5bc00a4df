package meta

import (
	"database/sql"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// raw opens a file as SQLite, without what Open does.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", source(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// schema returns the text of everything in the database, by name.
func schema(t *testing.T, db *sql.DB) map[string]string {
	t.Helper()
	rows, err := db.Query(`SELECT name, COALESCE(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := make(map[string]string)
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			t.Fatal(err)
		}
		found[name] = text
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

func versions(t *testing.T, db *sql.DB) (n, highest int) {
	t.Helper()
	if err := db.QueryRow(`SELECT COUNT(*), COALESCE(MAX(version), 0) FROM schema_migration`).Scan(&n, &highest); err != nil {
		t.Fatal(err)
	}
	return n, highest
}

func TestSQLiteOpenIsIdempotent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	names, err := migrationNames(steps("sqlite"))
	if err != nil || len(names) == 0 {
		t.Fatalf("migrations: %v, %v", names, err)
	}
	var before map[string]string
	for i := range 3 {
		db := openDB(t, path)
		after := schema(t, db.read)
		if i > 0 && !maps.Equal(before, after) {
			t.Errorf("opening again changed the schema: %v, %v", before, after)
		}
		if i == 0 {
			image(t, db, "a", "a", "t")
		}
		if m, err := db.Manifest(t.Context(), "a", byTag("t"), true); err != nil {
			t.Errorf("%+v, %v", m, err)
		}
		if n, highest := versions(t, db.read); n != len(names) || highest != n {
			t.Errorf("%d versions up to %d are noted of %d", n, highest, len(names))
		}
		before = after
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// Settings of a connection on which the promises of the package rest.
func TestSQLiteConnectionSettings(t *testing.T) {
	db := newDB(t)
	for pragma, want := range map[string]string{
		"foreign_keys": "1", "journal_mode": "wal", "synchronous": "1", "busy_timeout": "10000",
	} {
		var reader, writer string
		if err := db.read.QueryRow("PRAGMA " + pragma).Scan(&reader); err != nil {
			t.Fatal(err)
		}
		if err := db.update(t.Context(), func(x *tx) error { return x.queryRow("PRAGMA " + pragma).Scan(&writer) }); err != nil {
			t.Fatal(err)
		}
		if reader != want || writer != want {
			t.Errorf("%s is %s for readers and %s for the writer, want %s", pragma, reader, writer, want)
		}
	}
	if _, err := db.read.Exec(`DELETE FROM setting`); err == nil {
		t.Error("a reader can write")
	}
}

func TestSQLiteOpenRefusesNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	if err := openDB(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db := raw(t, path)
	if _, err := db.Exec(`INSERT INTO schema_migration (version) VALUES (9999)`); err != nil {
		t.Fatal(err)
	}
	before := schema(t, db)
	for name, open := range map[string]func() (*DB, error){
		"Open":         func() (*DB, error) { return Open(t.Context(), path, Options{}) },
		"OpenReadOnly": func() (*DB, error) { return OpenReadOnly(t.Context(), path, Options{}) },
	} {
		_, err := open()
		if err == nil {
			t.Fatalf("%s: a database of version 9999 was opened", name)
		}
		for _, s := range []string{path, "9999", "newer Berth"} {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", name, err, s)
			}
		}
	}
	if after := schema(t, db); !maps.Equal(before, after) {
		t.Errorf("the refusal changed the schema: %v", after)
	}
}

func migration(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

func TestSQLiteMigrateForward(t *testing.T) {
	db := raw(t, filepath.Join(t.TempDir(), "berth.db"))
	files := fstest.MapFS{
		"0001_one.sql": migration(`CREATE TABLE one (a INTEGER); INSERT INTO one VALUES (1);`),
		"notes.txt":    migration(`not SQL`),
	}
	wantOne := func(want string) {
		t.Helper()
		var got sql.NullString
		if err := db.QueryRow(`SELECT group_concat(a) FROM (SELECT a FROM one ORDER BY a)`).Scan(&got); err != nil || got.String != want {
			t.Errorf("%v, %v, want %s", got, err, want)
		}
	}
	for range 2 {
		if err := migrate(t.Context(), db, files); err != nil {
			t.Fatal(err)
		}
		wantOne("1")
	}
	// Two that come later run once, in order, after the ones that have run.
	files["0002_two.sql"] = migration(`INSERT INTO one SELECT MAX(a) + 1 FROM one; CREATE INDEX i ON one (a);`)
	files["0010_ten.sql"] = migration(`INSERT INTO one SELECT MAX(a) * 10 FROM one;`)
	if err := checkVersion(t.Context(), db, files); err == nil || !strings.Contains(err.Error(), "version 1") || !strings.Contains(err.Error(), "start the server") {
		t.Errorf("an old schema for a reader: %v", err)
	}
	for range 2 {
		if err := migrate(t.Context(), db, files); err != nil {
			t.Fatal(err)
		}
		wantOne("1,2,20")
	}
	if err := checkVersion(t.Context(), db, files); err != nil {
		t.Error(err)
	}
	// All of a run or nothing: the one that comes before the one that fails is undone, too.
	files["0011.sql"] = migration(`INSERT INTO one VALUES (11); CREATE TABLE eleven (a INTEGER);`)
	files["0012.sql"] = migration(`CREATE TABLE twelve (a INTEGER); INSERT INTO nowhere VALUES (12);`)
	before := schema(t, db)
	err := migrate(t.Context(), db, files)
	if err == nil || !strings.Contains(err.Error(), "0012.sql") {
		t.Errorf("error does not name the migration: %v", err)
	}
	wantOne("1,2,20")
	if after := schema(t, db); !maps.Equal(before, after) {
		t.Errorf("a failed migration left %v", slices.Sorted(maps.Keys(after)))
	}
	if n, highest := versions(t, db); n != 3 || highest != 3 {
		t.Errorf("%d versions up to %d", n, highest)
	}
	files["0012.sql"] = migration(`CREATE TABLE twelve (a INTEGER);`)
	if err := migrate(t.Context(), db, files); err != nil {
		t.Fatal(err)
	}
	wantOne("1,2,11,20")
	// Never backwards.
	delete(files, "0012.sql")
	if err := migrate(t.Context(), db, files); err == nil || !strings.Contains(err.Error(), "version 5") || !strings.Contains(err.Error(), "up to 4") {
		t.Errorf("a newer schema: %v", err)
	}
}

// The first start fails in the middle: nothing is left, and the next one begins anew.
func TestSQLiteFirstMigrationFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	db := raw(t, path)
	if _, err := db.Exec(`CREATE TABLE tag_log (stranger TEXT)`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), "tag_log") || !strings.Contains(err.Error(), path) {
		t.Fatalf("error is %v", err)
	}
	if left := schema(t, db); len(left) != 1 {
		t.Errorf("a failed start left %v", left)
	}
	if _, err := db.Exec(`DROP TABLE tag_log`); err != nil {
		t.Fatal(err)
	}
	openDB(t, path)
}

func TestSQLiteOpenFails(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"no folder": filepath.Join(dir, "a", "b"), "no database": garbage, "a folder": dir} {
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenReadOnly(t.Context(), filepath.Join(dir, "none"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenReadOnly of nothing: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("OpenReadOnly made a file: %v", err)
	}
}

// A path may hold what means something in a URI.
func TestSQLiteOpenOddPath(t *testing.T) {
	for _, name := range []string{"with space", "100%", "a%20b", "what?", "a#b", "a?_pragma=foreign_keys(OFF)&b", "é", "a:b", "a;b"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name+".db")
		db, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		image(t, db, "a", "a", "t")
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || files[0].Name() != name+".db" {
			t.Errorf("%s: the folder has %v, %v", name, files, err)
		}
	}
	t.Chdir(t.TempDir())
	if err := openDB(t, "relative.db").Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("relative.db"); err != nil {
		t.Error(err)
	}
}

func TestSQLiteReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	db := openDB(t, path)
	first := image(t, db, "a", 1, "t")
	reader, err := OpenReadOnly(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	wantTag := func(n NewManifest) {
		t.Helper()
		if m, err := reader.Manifest(t.Context(), "a", byTag("t"), true); err != nil || m.Digest != n.Digest {
			t.Errorf("a reader beside the server sees %+v, %v, want %s", m, err, n.Digest)
		}
	}
	wantTag(first)
	wantTag(first)
	wantTag(image(t, db, "a", 2, "t")) // what another process changes is seen
	if err := reader.SetSetting(t.Context(), "a", []byte("a")); !errors.Is(err, errReadOnly) {
		t.Errorf("a change: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
}

// olderSteps returns the migrations up to one.
func olderSteps(t *testing.T, database, last string) fstest.MapFS {
	t.Helper()
	older := fstest.MapFS{}
	names, err := migrationNames(steps(database))
	must(t, err)
	for _, name := range names {
		text, err := fs.ReadFile(steps(database), name)
		must(t, err)
		if older[name] = (&fstest.MapFile{Data: text}); name == last {
			return older
		}
	}
	t.Fatalf("there is no %s among %v", last, names)
	return nil
}

// beforeAccounts is content of a database that knew no accounts.
var beforeAccounts = []string{
	`INSERT INTO repository (id, name, created_at, listed) VALUES (1, 'team/app', 0, 0)`,
	`INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body) VALUES (1, 1, 'd', 'm', 0, '', 0, '')`,
	`INSERT INTO upload (id, repository, storage_key, size, algorithm, created_at, updated_at) VALUES ('u', 'team/app', 'k', 5, 'sha256', 0, 0)`,
}

// wantAfterAccounts fails unless the content is served as before: nobody has rights yet but those that are given.
func wantAfterAccounts(t *testing.T, db *DB) {
	t.Helper()
	if f, err := db.Facts(t.Context(), 0, 0, "team/app"); err != nil || !f.Exists || f.Public != nil || f.OrganizationID != 0 || f.IsPublic() {
		t.Errorf("%+v, %v", f, err)
	}
	if u, err := db.Upload(t.Context(), "team/app", "u"); err != nil || u.Account != 0 || u.Size != 5 {
		t.Errorf("%+v, %v", u, err)
	}
	if names, err := db.Repositories(t.Context(), "", 10); err != nil || !slices.Equal(names, []string{"team/app"}) {
		t.Errorf("%v, %v", names, err)
	}
	people(t, db)
	yes := true
	must(t, db.SetRepositoryPublic(t.Context(), "team/app", &yes))
	if names, _, err := db.ReadableRepositories(t.Context(), Viewer{}, "", "", 10); err != nil || !slices.Equal(names, []string{"team/app"}) {
		t.Errorf("%v, %v", names, err)
	}
}

func TestSQLiteUpgradeToAccounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	old := raw(t, path)
	must(t, migrate(t.Context(), old, olderSteps(t, "sqlite", "0003_jobs.sql")))
	for _, s := range beforeAccounts {
		if _, err := old.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	must(t, old.Close())
	wantAfterAccounts(t, openDB(t, path))
}

// A database that the first schema has filled lists, after an upgrade, the repositories that it listed before.
func TestSQLiteUpgradeLists(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.db")
	first := fstest.MapFS{}
	text, err := fs.ReadFile(steps("sqlite"), "0001_registry.sql")
	if err != nil {
		t.Fatal(err)
	}
	first["0001_registry.sql"] = &fstest.MapFile{Data: text}
	old := raw(t, path)
	if err := migrate(t.Context(), old, first); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		`INSERT INTO repository (id, name, created_at) VALUES (1, 'held', 0), (2, 'linked', 0), (3, 'a/held', 0)`,
		`INSERT INTO blob (id, digest, size, storage_key, created_at) VALUES (1, 'sha256:00', 1, 'k', 0)`,
		`INSERT INTO repository_blob VALUES (2, 1, 5)`,
		`INSERT INTO manifest (id, repository_id, digest, media_type, size, artifact_type, created_at, body)
			VALUES (1, 1, 'd', 'm', 0, '', 0, ''), (2, 3, 'd', 'm', 0, '', 0, ''), (3, 3, 'e', 'm', 0, '', 0, '')`,
	} {
		if _, err := old.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	db := openDB(t, path)
	if got, err := db.Repositories(t.Context(), "", 10); err != nil || !slices.Equal(got, []string{"a/held", "held"}) {
		t.Errorf("repositories after the upgrade: %v, %v", got, err)
	}
}
