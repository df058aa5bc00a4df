package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/test/service"
)

func open(t *testing.T, source string) *meta.DB {
	t.Helper()
	db, err := meta.Open(t.Context(), source, meta.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "berth.db") }

// add adds entries whose objects are numbers.
func add(t *testing.T, db *meta.DB, from, to int) {
	t.Helper()
	var all []meta.AuditEntry
	for i := from; i < to; i++ {
		all = append(all, meta.AuditEntry{AuditPlace: meta.AuditPlace{At: time.Now()}, Actor: "ann", Client: "192.0.2.1", Action: "push", Object: fmt.Sprint(i), Allowed: i%2 == 0})
	}
	if err := db.AddAudit(t.Context(), all); err != nil {
		t.Fatal(err)
	}
}

// forwarder returns one whose runs end when all is sent.
func forwarder(db *meta.DB, to Receiver) *Forwarder {
	f := NewForwarder(db, to, slog.New(slog.DiscardHandler))
	f.turn = 0
	return f
}

// list is a Receiver.
type list struct {
	got  []Entry
	fail func() error
}

func (*list) Name() string { return "list" }

func (l *list) Send(_ context.Context, entries []Entry) error {
	l.got = append(l.got, entries...)
	if l.fail != nil {
		return l.fail()
	}
	return nil
}

// objects returns what entries are about, each once.
func objects(entries []Entry) []string {
	var all []string
	for _, e := range entries {
		if !slices.Contains(all, e.Object) {
			all = append(all, e.Object)
		}
	}
	return all
}

func numbers(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// All entries arrive, in order, through failures of the receiver and restarts, and what has arrived does not arrive again.
func TestForward(t *testing.T) {
	db := open(t, file(t))
	to := new(list)
	f := forwarder(db, to)
	if text, err := f.run(t.Context()); err != nil || text != "0 entries" {
		t.Errorf("%q, %v", text, err)
	}
	add(t, db, 0, 2*batch+10)
	calls, refused := 0, errors.New("refused")
	to.fail = func() error {
		if calls++; calls == 2 {
			return refused
		}
		return nil
	}
	if _, err := f.run(t.Context()); !errors.Is(err, refused) {
		t.Errorf("the failure is %v", err)
	}
	if lag, err := Lag(t.Context(), db, "list", time.Now().Add(time.Hour)); err != nil || lag < time.Hour {
		t.Errorf("it is behind by %s, %v", lag, err)
	}
	f = forwarder(db, to) // after a restart
	if text, err := f.run(t.Context()); err != nil || text != fmt.Sprint(batch+10, " entries") {
		t.Errorf("%q, %v", text, err)
	}
	if len(to.got) != 3*batch+10 || !slices.Equal(objects(to.got), numbers(0, 2*batch+10)) {
		t.Errorf("%d entries arrived", len(to.got))
	}
	if lag, err := Lag(t.Context(), db, "list", time.Now().Add(time.Hour)); err != nil || lag != 0 {
		t.Errorf("it is behind by %s, %v", lag, err)
	}
	add(t, db, 5000, 5001)
	if text, err := f.run(t.Context()); err != nil || text != "1 entries" {
		t.Errorf("%q, %v", text, err)
	}
}

// With PostgreSQL, entries come to be seen in another order than that of their IDs. None is left out, while many add and nodes forward at once.
func TestForwardWhileAdding(t *testing.T) {
	database := service.Postgres(t).URL
	const writers, each = 8, 100
	db := open(t, database)
	var adding sync.WaitGroup
	for w := range writers {
		adding.Go(func() {
			for i := range each {
				// The change goes on for a while after its entry has an ID.
				err := db.WithAudit(func() meta.AuditEntry {
					return meta.AuditEntry{AuditPlace: meta.AuditPlace{At: time.Now()}, Action: "push", Object: fmt.Sprint(w*each + i), Allowed: true}
				}).SetSetting(context.Background(), fmt.Sprint("x", w%2), []byte{byte(i)}) // half of them wait for each other
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { adding.Wait(); close(done) }()
	to := new(list)
	f := forwarder(db, to)
	for over := false; !over; {
		select {
		case <-done:
			over = true // after one more run
		default:
		}
		if _, err := f.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(objects(to.got)); got != writers*each || len(to.got) != writers*each {
		t.Errorf("%d entries of %d arrived, %d times", got, writers*each, len(to.got))
	}
	if !slices.IsSortedFunc(to.got, func(a, b Entry) int { return int(a.ID - b.ID) }) {
		t.Error("they arrived in another order")
	}
}

func readLines(t *testing.T, path string) []Entry {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []Entry
	for text := range strings.Lines(string(b)) {
		var e Entry
		if err := json.Unmarshal([]byte(text), &e); err == nil {
			all = append(all, e)
		}
	}
	return all
}

// A file can be renamed, truncated and taken away at any time; what a crash left of a line spoils no other.
func TestFile(t *testing.T) {
	db := open(t, file(t))
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f := forwarder(db, &File{path})
	run := func() {
		t.Helper()
		if _, err := f.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	add(t, db, 0, 3)
	run()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	add(t, db, 3, 5)
	run()
	if err := os.WriteFile(path+".half", []byte(`{"at":"2026`), 0o600); err != nil {
		t.Fatal(err)
	}
	got := append(readLines(t, path+".1"), readLines(t, path)...)
	if err := os.Rename(path+".half", path); err != nil {
		t.Fatal(err)
	}
	add(t, db, 5, 7)
	run()
	got = append(got, readLines(t, path)...)
	if !slices.Equal(objects(got), numbers(0, 7)) {
		t.Errorf("%+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	add(t, db, 7, 8)
	run()
	if got := readLines(t, path); !slices.Equal(objects(got), numbers(7, 8)) {
		t.Errorf("%+v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	add(t, db, 8, 9)
	if _, err := f.run(t.Context()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}
