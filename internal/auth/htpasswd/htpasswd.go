// Package htpasswd checks passwords against a file of name:hash lines, as "htpasswd -B" makes them.
//
// Only bcrypt is known; a file with any other hash is refused, with the line and what to do. Empty lines and lines that begin with # are left
// out. Names are those of Berth's users.
//
// The file is looked at before each use and read again when it has changed, be it in place or by another one in its place. A new
// file that cannot be used changes nothing: the old content stays, and the log says so, once.
//
// A wrong password takes as long as a name that is not in the file, whatever the costs of the hashes: every check does the work of the
// most expensive hash. Not more checks run at a time than there are processors; the others wait.
package htpasswd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// ErrCredentials is the error about a wrong name or password, for errors.Is.
var ErrCredentials = errors.New("wrong name or password")

// MaxPassword is how many bytes of a password bcrypt looks at. A longer one is refused, because whatever follows them would count for nothing.
const MaxPassword = 72

// maxSize bounds in bytes what is read as a file: some hundred thousand users.
const maxSize = 32 << 20

// maxCost is the largest cost that htpasswd makes. A check takes seconds then.
const maxCost = 17

// settled is how old a change must be so that the next one surely has another time: a file can change
// twice within one tick of the clock of a file system, which is 2 s at most.
const settled = 2 * time.Second

// File is a file of passwords. All methods may be called concurrently.
type File struct {
	path  string
	log   *slog.Logger
	turns chan struct{} // one for each check that runs

	mu      sync.Mutex
	users   users
	read    version // of the file that was read last, be it good or bad
	trouble string  // what is wrong with the file since users was read; empty for nothing
}

// version tells one content of a file from another.
type version struct {
	info    fs.FileInfo // nil if there is no file
	read    time.Time   // when info was taken, before the content
	content [32]byte
}

// users are the content of a file.
type users struct {
	hashes map[string][]byte // by name
	cost   int               // the largest of any hash
}

// Open reads a file. What is wrong with its lines is in the error, together.
func Open(path string, log *slog.Logger) (*File, error) {
	f := &File{path: path, log: log, turns: make(chan struct{}, runtime.GOMAXPROCS(0))}
	if err := f.load(); err != nil {
		return nil, fmt.Errorf("read passwords: %w", err)
	}
	return f, nil
}
