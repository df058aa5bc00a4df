// Package htpasswd checks passwords against a file of name:hash lines, as "htpasswd -B" makes them.
//
// Only bcrypt is known; a file with any other hash is refused, with the line and what to do. Empty lines and lines that begin with # are
// left out. Names are those of Berth's users.
//
// The file is looked at before each use and read again when it has changed, be it in place or by another one that took its place. A new
// file that cannot be used changes nothing: the old content stays, and the log says so, once.
//
// A wrong password takes as long as a name that is not in the file, whatever the costs of the hashes are: every check does the work of the
// most expensive hash. No more checks run at a time than there are processors; others wait.
package htpasswd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// ErrCredentials is about a wrong name or password, for errors.Is.
var ErrCredentials = errors.New("wrong name or password")

// MaxPassword is how many bytes of a password bcrypt looks at. A longer password is refused, because what follows them would count for
// nothing.
const MaxPassword = 72

// maxSize bounds in bytes what is read as a file: some hundred thousand users.
const maxSize = 32 << 20

// settled is how old a change must be for the next one to have another time: file systems count in steps of 2 s at most.
const settled = 2 * time.Second

// File is a file of passwords. All methods may be called concurrently.
type File struct {
	path  string
	log   *slog.Logger
	turns chan struct{} // one for each check that runs

	mu      sync.Mutex
	users   users
	version version // of the file that was looked at last, be it good or bad
	failure string  // why users is not what is in the file; empty if it is
}

// version tells the contents that a file has had from each other.
type version struct {
	info   fs.FileInfo // nil if there was no file
	at     time.Time   // when info was taken, before the content was read
	digest [sha256.Size]byte
}

// Open reads a file. The error tells all that is wrong with it.
func Open(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log, turns: make(chan struct{}, runtime.GOMAXPROCS(0))}
	if err := f.load(); err != nil {
		return nil, fmt.Errorf("password file: %w", err)
	}
	return f, nil
}

// Authenticate checks a password. The error is ErrCredentials, or that ctx ended while others were being checked. A password that is too long
// gives an ErrCredentials that says so, whoever's it is.
func (f *File) Authenticate(ctx context.Context, name, password string) error {
	if len(password) > MaxPassword {
		return fmt.Errorf("%w: a password has at most %d bytes", ErrCredentials, MaxPassword)
	}
	// bcrypt takes a NUL for the end of the password, so that others would do as well.
	if password == "" || strings.ContainsRune(password, 0) {
		return ErrCredentials
	}
	select {
	case f.turns <- struct{}{}:
		defer func() { <-f.turns }()
	case <-ctx.Done():
		return fmt.Errorf("wait for others whose passwords are being checked: %w", context.Cause(ctx))
	}
	if !f.current().check(name, password) {
		return ErrCredentials
	}
	return nil
}

// Names returns the names in the file, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.current().hashes)) }

// current returns the users, after a look at the file.
func (f *File) current() users {
	f.mu.Lock()
	defer f.mu.Unlock()
	failed := f.failure != ""
	err := f.load()
	switch {
	case err != nil && err.Error() != f.failure:
		f.failure = err.Error()
		f.log.Error("the password file has changed and cannot be used, so that what it held before counts", "file", f.path, "error", err)
	case err == nil && failed:
		f.failure = ""
		f.log.Info("the password file can be used again", "file", f.path)
	}
	return f.users
}

// load reads the file if it may have changed. If it is not good, users stay, and the error is the same until the next change.
func (f *File) load() error {
	at := time.Now()
	info, err := os.Stat(f.path)
	if err != nil {
		f.version = version{}
		return err
	}
	if v := f.version; v.info != nil && os.SameFile(v.info, info) && v.info.Size() == info.Size() && v.info.ModTime().Equal(info.ModTime()) &&
		v.at.Sub(info.ModTime()) > settled {
		return f.lastError()
	}
	content, err := read(f.path)
	if err != nil {
		f.version = version{}
		return err
	}
	digest := sha256.Sum256(content)
	same := f.version.info != nil && f.version.digest == digest
	f.version = version{info, at, digest}
	if same {
		return f.lastError()
	}
	users, err := parse(content)
	if err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	f.users = users
	return nil
}

// lastError returns the error about a file that has not changed since.
func (f *File) lastError() error {
	if f.failure == "" {
		return nil
	}
	return errors.New(f.failure)
}

func read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err == nil && len(content) > maxSize {
		err = fmt.Errorf("%s: it is larger than %d bytes", path, maxSize)
	}
	return content, err
}

// users are the content of a file. It is never changed.
type users struct {
	hashes map[string]hash // by name
	cost   int             // the largest of all hashes
}

// hash is one of bcrypt, in its usual form.
type hash struct {
	text []byte
	cost int // the binary logarithm of the work
}

// check tells whether this is the password of that name. It takes the same work for every name.
func (u users) check(name, password string) bool {
	h, known := u.hashes[name]
	if !known {
		h = nobody(u.cost)
	}
	matches := bcrypt.CompareHashAndPassword(h.text, []byte(password)) == nil
	// A hash of cost n is 2^n steps; with those of the costs n, n+1, ..., m-1 after it, it is 2^m together.
	for cost := h.cost; cost < u.cost; cost++ {
		_ = bcrypt.CompareHashAndPassword(nobody(cost).text, []byte(password))
	}
	return known && matches
}

// nobody returns a hash of nobody's password.
func nobody(cost int) hash {
	return hash{fmt.Appendf(nil, "$2y$%02d$%s", cost, strings.Repeat(".", 53)), cost}
}

// parse reads the content of a file.
func parse(content []byte) (users, error) {
	u := users{hashes: map[string]hash{}}
	lines := map[string]int{}
	var problems []error
	number := 0
	for line := range bytes.Lines(content) {
		number++
		line = bytes.TrimRight(line, "\r\n")
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		name, h, err := parseLine(string(line))
		switch {
		case err != nil:
		case lines[name] != 0:
			err = fmt.Errorf("%s is in line %d already: remove one of them", name, lines[name])
		}
		if err != nil {
			if problems = append(problems, fmt.Errorf("line %d: %w", number, err)); len(problems) == 10 {
				break // enough to work on
			}
			continue
		}
		lines[name] = number
		u.hashes[name] = h
		u.cost = max(u.cost, h.cost)
	}
	if len(problems) > 0 {
		return users{}, errors.Join(problems...)
	}
	return u, nil
}
