package model

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the database once more, to set a time in it
	_ "modernc.org/sqlite"

	"github.com/berthregistry/berth/internal/admin"
	storage "github.com/berthregistry/berth/internal/blob"
	"github.com/berthregistry/berth/internal/blob/fs"
	"github.com/berthregistry/berth/internal/fsck"
	"github.com/berthregistry/berth/internal/gc"
	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/policy"
	"github.com/berthregistry/berth/internal/registry"
)

// world is a registry on a real database and a real folder, and the model of what it must hold.
type world struct {
	ctx   context.Context
	db    *meta.DB
	store storage.Store
	dir   string
	// With a trash, and without.
	registries [2]*registry.Registry
	apis       [2]http.RoundTripper
	collector  *gc.Collector

	*state
	log []string // of the steps so far
}

// failure is a difference between model and registry.
type failure struct{ text string }

// fail ends a run.
func fail(format string, args ...any) { panic(failure{fmt.Sprintf(format, args...)}) }

func must(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

// memory is a folder that is in memory, where there is one.
func memory() string {
	const dir = "/dev/shm"
	if f, err := os.CreateTemp(dir, ""); err == nil {
		f.Close()
		os.Remove(f.Name())
		return dir
	}
	return os.TempDir()
}

// open opens a registry on an empty database: the URL of one of PostgreSQL, or nothing for SQLite.
func open(t *testing.T, database string) *world {
	dir, err := os.MkdirTemp(memory(), "berth-model-")
	must(err, "make a folder")
	w := &world{ctx: t.Context(), dir: dir, state: newState()}
	if database == "" {
		database = dir + "/berth.db"
	} else { // connections last, however fast time passes
		database += "&pool_max_conn_lifetime=1000000h&pool_max_conn_idle_time=1000000h&pool_health_check_period=1000000h&pool_max_conns=2"
	}
	w.db, err = meta.Open(w.ctx, database, meta.Options{})
	must(err, "open the database")
	w.known = now()
	noteSince(w.ctx, database, w.known)
	w.store, err = fs.Open(dir+"/blobs", fs.Options{})
	must(err, "open the store")
	for i := range w.registries {
		trash := i == 0
		w.registries[i], err = registry.New(w.ctx, w.db, w.store, registry.Options{Sparse: sparse, Delete: true, Grace: grace, UploadExpiry: expiry, Trash: trash})
		must(err, "make a registry")
		o := admin.Options{DB: w.db, Registry: w.registries[i], Log: slog.New(slog.DiscardHandler), Delete: true}
		if trash {
			o.TrashKeep = keep
		}
		w.apis[i] = admin.New(o).Local()
	}
	w.collector = gc.New(w.db, w.store, gc.Options{Log: slog.New(slog.DiscardHandler), Grace: grace, UploadExpiry: expiry, TrashKeep: keep})
	return w
}

// noteSince says since when a database has noted pulls: it does by its own clock, which is ahead of that of the steps.
func noteSince(ctx context.Context, database string, since int64) {
	driver := "sqlite"
	if u, _, ok := strings.Cut(database, "&pool_"); ok {
		driver, database = "pgx", u
	}
	db, err := sql.Open(driver, database)
	must(err, "open the database")
	_, err = db.ExecContext(ctx, fmt.Sprintf("UPDATE pull_record SET since = %d", since))
	must(errors.Join(err, db.Close()), "say since when pulls are noted")
}

func (w *world) close() {
	w.db.Close()
	os.RemoveAll(w.dir)
}

func now() int64 { return time.Now().UnixMilli() }

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// with tells which registry a step is about.
func with(trash bool) int {
	if trash {
		return 0
	}
	return 1
}

// of says what an error of the registry is.
func of(err error) outcome {
	_, isFrozen := errors.AsType[*policy.FrozenError](err)
	_, isProtected := errors.AsType[*policy.ProtectedError](err)
	_, isQuota := errors.AsType[*meta.QuotaError](err)
	wrong, _ := errors.AsType[*oci.Error](err)
	switch {
	case err == nil:
		return done
	case isFrozen:
		return frozen
	case isProtected:
		return protected
	case isQuota, wrong != nil && wrong.Code == oci.CodeDenied && strings.Contains(wrong.Message, "quota"):
		return quota
	case errors.Is(err, meta.ErrNotFound):
		return unknown
	case wrong == nil:
	case wrong.Code == oci.CodeManifestBlobUnknown:
		return missing
	case wrong.Code == oci.CodeUnsupported:
		return referenced
	case slices.Contains([]oci.Code{oci.CodeBlobUnknown, oci.CodeManifestUnknown, oci.CodeNameUnknown, oci.CodeBlobUploadUnknown}, wrong.Code):
		return unknown
	}
	return outcome("error: " + err.Error())
}

// same fails unless the registry did what the model says.
func (w *world) same(what string, want, got outcome) outcome {
	w.log = append(w.log, fmt.Sprintf("%s %s: %s", timeOf(now()).Format("02 15:04:05.000"), what, want))
	if want != got {
		fail("%s: %s, expected: %s", what, got, want)
	}
	// PostgreSQL pauses before it makes a change again. Times are in whole milliseconds, or what is said of them here would not be exact.
	if rest := time.Duration(time.Now().Nanosecond()) % time.Millisecond; rest > 0 {
		time.Sleep(time.Millisecond - rest)
	}
	return got
}

// call asks the management API for something and tells how it ended.
func (w *world) call(trash bool, method, path string, query url.Values, in, out any) outcome {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		must(err, "make a request")
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(w.ctx, method, "http://berth"+admin.Prefix+path+"?"+query.Encode(), body)
	must(err, "make a request")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.apis[with(trash)].RoundTrip(req)
	must(err, path)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(err, path)
	switch said := string(text); {
	case resp.StatusCode < 300:
		if out != nil {
			must(json.Unmarshal(text, out), path)
		}
		return done
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusConflict:
		return unknown
	case strings.Contains(said, "frozen"):
		return frozen
	case strings.Contains(said, "protected"):
		return protected
	case strings.Contains(said, "quota"):
		return quota
	default:
		return outcome(fmt.Sprintf("status %d: %s", resp.StatusCode, said))
	}
}

// lines are what is to be compared.
type lines map[string]bool

func (l lines) add(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	if l[s] {
		fail("twice: %s", s)
	}
	l[s] = true
}

// compare fails unless the same lines are there.
func compare(want, got lines) {
	var wrong []string
	for s := range want {
		if !got[s] {
			wrong = append(wrong, "- "+s)
		}
	}
	for s := range got {
		if !want[s] {
			wrong = append(wrong, "+ "+s)
		}
	}
	if len(wrong) > 0 {
		slices.SortFunc(wrong, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
		fail("the registry has what is marked with +, and should have what is marked with -:\n%s", strings.Join(wrong, "\n"))
	}
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

const all = 1000 // is more than there ever is

// check compares all that is there: what repositories hold, what they were at another time, what organizations use, and what is in the store.
func (w *world) check(at int64) {
	want, got := make(lines), make(lines)
	unreferenced, err := w.db.UnreferencedBlobs(w.ctx, timeOf(now()+1), all)
	must(err, "unreferenced blobs")
	for _, u := range unreferenced {
		got.add("link %s %s since %d", u.Repository, show(u.Digest), u.Since.UnixMilli())
	}
	var listed []string
	for _, name := range repositories {
		r := w.repositories[name]
		r.lines(want, at)
		w.lines(got, name, at)
		if len(r.live) > 0 {
			listed = append(listed, string(name))
		}
	}
	slices.Sort(listed)
	names, err := w.registries[0].Repositories(w.ctx, "", all)
	must(err, "repositories")
	want.add("catalog %v", listed)
	got.add("catalog %v", names)
	for _, o := range organizations {
		u, err := w.db.Usage(w.ctx, o)
		must(err, "usage")
		got.add("usage of %s: %+v", o, u)
		want.add("usage of %s: %+v", o, w.usage(o))
	}

	count, bytes, err := w.db.Totals(w.ctx)
	must(err, "totals")
	got.add("%d blobs of %d bytes", count, bytes)
	stored := w.stored()
	bytes = 0
	for _, b := range stored {
		bytes += b.size()
	}
	want.add("%d blobs of %d bytes", len(stored), bytes)

	objects := 0
	for _, err := range w.store.List(w.ctx, time.Time{}, time.Now().Add(24*time.Hour)) {
		must(err, "list objects")
		objects++
	}
	doomed, err := w.db.Doomed(w.ctx, "", all)
	must(err, "doomed objects")
	got.add("%d objects that are needed", objects-len(doomed))
	want.add("%d objects that are needed", len(stored)+len(w.uploads))
	compare(want, got)
}

// lines adds what the model says of a repository.
func (r *repository) lines(l lines, at int64) {
	for tag, t := range r.tags {
		l.add("tag %s:%s %s pushed %d pulled %d", r.name, tag, t.to.name, t.pushed, t.pulled)
	}
	for m, h := range r.live {
		l.add("manifest %s@%s pushed %d again %d freed %d pulled %d", r.name, m.name, h.pushed, h.again, h.freed, h.pulled)
	}
	for m, t := range r.trash {
		var bytes int64
		for b := range t.needs {
			bytes += b.size()
		}
		l.add("trash %s@%s deleted %d by %s tags %v bytes %d", r.name, m.name, t.deleted, t.method, t.tags, bytes)
	}
	var bytes int64
	for b, since := range r.links {
		bytes += b.size()
		if since != 0 {
			l.add("link %s %s since %d", r.name, b.name, since)
		}
	}
	if r.exists() {
		l.add("contents of %s: %d manifests, %d tags, %d blobs, %d bytes", r.name, len(r.live), len(r.tags), len(r.links), bytes)
	}
	for tag := range r.log {
		then, since := r.at(tag, at)
		if later, last := r.at(tag, now()); then != nil || later != nil {
			l.add("history %s:%s was %s since %d at %d is %s since %d", r.name, tag, nameOf(then), since, at, nameOf(later), last)
		}
	}
}

func nameOf(m *manifest) string {
	if m == nil {
		return "none"
	}
	return m.name
}

func shown(d oci.Digest) string {
	if d.IsZero() {
		return "none"
	}
	return show(d)
}

// lines adds what the registry says of a repository, links aside.
func (w *world) lines(l lines, name oci.Repository, at int64) {
	c, err := w.db.Contents(w.ctx, name)
	there := err == nil
	if !errors.Is(err, meta.ErrNotFound) {
		must(err, "contents")
		l.add("contents of %s: %d manifests, %d tags, %d blobs, %d bytes", name, c.Manifests, c.Tags, c.Blobs, c.Bytes)
	}
	if there {
		times, err := w.db.TagTimes(w.ctx, name, "", all)
		must(err, "tags")
		for _, t := range times {
			l.add("tag %s:%s %s pushed %d pulled %d", name, t.Tag, show(t.Digest), milliseconds(t.Pushed), milliseconds(t.Pulled))
		}
		kept, err := w.db.KeptManifests(w.ctx, name, "", all)
		must(err, "manifests")
		for _, m := range kept {
			again := milliseconds(m.Again)
			if again > now()+int64(10*365*24*time.Hour/time.Millisecond) { // by the clock of the database
				again = ahead
			}
			l.add("manifest %s@%s pushed %d again %d freed %d pulled %d", name, show(m.Digest), milliseconds(m.Pushed), again, milliseconds(m.Freed), milliseconds(m.Pulled))
		}
		trash, err := w.db.Trash(w.ctx, name, meta.TrashPlace{}, all)
		must(err, "trash")
		for _, t := range trash {
			l.add("trash %s@%s deleted %d by %s tags %v bytes %d", name, show(t.Digest), milliseconds(t.Deleted), t.Origin.Method, t.Tags, t.Blobs)
		}
	}
	changes, next, err := w.db.TagChanges(w.ctx, name, timeOf(at), time.Time{}, "", all)
	must(err, "changes")
	if next != "" {
		fail("the history of %s has more than %d tags", name, all)
	}
	for _, ch := range changes {
		l.add("history %s:%s was %s since %d at %d is %s since %d", name, ch.From.Tag, shown(ch.From.Digest), milliseconds(ch.From.Since), at,
			shown(ch.To.Digest), milliseconds(ch.To.Since))
	}
}

// checkAll compares everything, and reads every byte that there is and every move of a tag.
func (w *world) checkAll(at int64) {
	w.check(at)
	want, got := make(lines), make(lines)
	for _, name := range repositories {
		r := w.repositories[name]
		w.checkBlobs(r)
		w.checkManifests(r, at)
		for tag, log := range r.log {
			moves, err := w.db.TagMoves(w.ctx, name, tag, meta.MovePlace{}, len(log)+1)
			must(err, "moves")
			slices.Reverse(moves)
			for i, m := range log {
				want.add("move %d of %s:%s at %d from %s to %s by %s", i, name, tag, m.at, nameOf(m.old), nameOf(m.new), m.method)
			}
			for i, m := range moves {
				got.add("move %d of %s:%s at %d from %s to %s by %s", i, name, tag, m.At.UnixMilli(), shown(m.Old), shown(m.New), m.Origin.Method)
			}
		}
	}
	compare(want, got)
}

// checkBlobs reads the blobs of a repository.
func (w *world) checkBlobs(r *repository) {
	for _, b := range blobs {
		_, expected := r.links[b]
		found, err := w.registries[0].Blob(w.ctx, r.name, b.digest)
		if o := of(err); expected != (o == done) || o != done && o != unknown {
			fail("blob %s of %s: %v, expected: %t", b.name, r.name, err, expected)
		}
		if err != nil {
			continue
		}
		rd, err := w.registries[0].OpenBlob(w.ctx, r.name, found)
		must(err, "open "+b.name)
		got, err := io.ReadAll(rd)
		rd.Close()
		if err != nil || !bytes.Equal(got, b.bytes) {
			fail("blob %s of %s is %q, %v", b.name, r.name, got, err)
		}
	}
}

// checkManifests reads the manifests of a repository by digest, by tag and by tag as of a time, those in the trash, and what refers to them.
func (w *world) checkManifests(r *repository, at int64) {
	read := func(ref oci.Reference, want *manifest) {
		m, err := w.registries[0].Manifest(w.ctx, r.name, ref, true)
		o := of(err)
		switch {
		case want == nil && o != unknown:
			fail("%s %s is there: %v", r.name, ref, err)
		case want != nil && (err != nil || !bytes.Equal(m.Body, want.body) || m.Digest != want.digest || m.MediaType != want.mediaType):
			fail("%s %s: %v, expected %s", r.name, ref, err, want.name)
		}
	}
	at -= at % 1000 // tags name seconds
	for _, tag := range tags {
		read(oci.Reference{Tag: tag}, r.tags[tag].to)
		then, _ := r.at(tag, at)
		if _, live := r.live[then]; !live || at > now() {
			then = nil
		}
		read(oci.Reference{Tag: oci.Tag(string(tag) + timeOf(at).Format(".at-20060102T150405Z"))}, then)
	}
	for _, m := range manifests {
		_, live := r.live[m]
		if live {
			read(oci.Reference{Digest: m.digest}, m)
		} else {
			read(oci.Reference{Digest: m.digest}, nil)
		}
		found, _, err := w.registries[0].Referrers(w.ctx, r.name, m.digest, "", 0, all, 1<<20)
		must(err, "referrers")
		want, got := make(lines), make(lines)
		for one := range r.live {
			if one.subject == m {
				want.add("%s of %s refers to %s", one.name, r.name, m.name)
			}
		}
		for _, f := range found {
			got.add("%s of %s refers to %s", show(f.Descriptor.Digest), r.name, m.name)
		}
		compare(want, got)
		kept, err := w.db.Whereabouts(w.ctx, r.name, []oci.Digest{m.digest})
		must(err, "whereabouts")
		place := meta.KeptNowhere
		if _, trashed := r.trash[m]; trashed {
			place = meta.KeptInTrash
		} else if live {
			place = meta.KeptInRepository
		}
		if kept[m.digest] != place {
			fail("%s of %s is in %s, expected: %s", m.name, r.name, kept[m.digest], place)
		}
	}
}

// fsck lets the registry look for itself.
func (w *world) fsck() {
	var found []string
	_, err := fsck.Run(w.ctx, w.db, w.store, fsck.Options{Deep: true, Found: func(f fsck.Finding) {
		found = append(found, f.Object+": "+f.What)
	}})
	must(err, "fsck")
	if len(found) > 0 {
		fail("fsck found:\n%s", strings.Join(found, "\n"))
	}
}
