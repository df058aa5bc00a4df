package htpasswd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/berthregistry/berth/test/harness"
)

// logged is a log that a test reads.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count returns how often something was logged.
func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

func line(t testing.TB, name, password string, cost int) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), cost)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + string(hash) + "\n"
}

func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// open opens a file with this content.
func open(t testing.TB, content string) (f *File, path string, log *logged) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "passwords")
	write(t, path, content)
	log = new(logged)
	f, err := Open(path, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return f, path, log
}

func accepted(t testing.TB, f *File, name, password string) {
	t.Helper()
	if err := f.Authenticate(t.Context(), name, password); err != nil {
		t.Errorf("%s with %q: %v", name, password, err)
	}
}

func refused(t testing.TB, f *File, name, password string) {
	t.Helper()
	if err := f.Authenticate(t.Context(), name, password); err != ErrCredentials {
		t.Errorf("%s with %q: %v, want ErrCredentials itself", name, password, err)
	}
}

func TestAuthenticate(t *testing.T) {
	f, _, _ := open(t, "# users\n\n"+line(t, "alice", "secret", 4)+strings.Replace(line(t, "bob", "pässword", 5), "\n", "\r\n", 1)+"  \n"+strings.TrimSuffix(line(t, "r2-d2", " ", 4), "\n"))
	accepted(t, f, "alice", "secret")
	accepted(t, f, "bob", "pässword")
	accepted(t, f, "r2-d2", " ")
	for _, name := range []string{"alice", "bob", "carol", "", "Alice", "alice\n", "# users"} {
		for _, password := range []string{"", "Secret", "secret ", "secret\x00", "secret\x00secret"} {
			refused(t, f, name, password)
		}
	}
	if names := f.Names(); !slices.Equal(names, []string{"alice", "bob", "r2-d2"}) {
		t.Errorf("Names = %q", names)
	}
}

func TestEmptyFile(t *testing.T) {
	f, _, _ := open(t, "")
	refused(t, f, "alice", "secret")
	if names := f.Names(); len(names) != 0 {
		t.Errorf("Names = %q", names)
	}
}

// TestRealFiles: what the real htpasswd makes.
func TestRealFiles(t *testing.T) {
	program := harness.Need(t, "htpasswd")
	path := filepath.Join(t.TempDir(), "passwords")
	htpasswd := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("htpasswd %q: %v\n%s", args, err, out)
		}
	}
	log := new(logged)
	htpasswd("-cbB", path, "alice", "secret")
	f, err := Open(path, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	accepted(t, f, "alice", "secret")
	refused(t, f, "alice", "wrong")
	htpasswd("-bB", "-C", "6", path, "bob", "pässword")
	accepted(t, f, "alice", "secret")
	accepted(t, f, "bob", "pässword")
	htpasswd("-bB", path, "alice", "another")
	refused(t, f, "alice", "secret")
	accepted(t, f, "alice", "another")
	htpasswd("-D", path, "alice")
	refused(t, f, "alice", "another")
	accepted(t, f, "bob", "pässword")

	long := strings.Repeat("x", MaxPassword)
	htpasswd("-bB", path, "long", long+"y") // htpasswd cuts it
	accepted(t, f, "long", long)
	for _, name := range []string{"long", "nobody"} {
		if err := f.Authenticate(t.Context(), name, long+"y"); !errors.Is(err, ErrCredentials) || !strings.Contains(err.Error(), "at most 72 bytes") {
			t.Errorf("a password that is too long: %v", err)
		}
	}

	for option, says := range map[string]string{"-m": "is MD5", "-s": "is SHA-1", "-d": "is crypt", "-2": "is SHA-256", "-5": "is SHA-512", "-p": "plain text"} {
		other := filepath.Join(t.TempDir(), "passwords")
		write(t, other, line(t, "alice", "secret", 4))
		htpasswd("-b", option, other, "bob", "secret13chars")
		_, err := Open(other, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "passwords: line 2: ") || !strings.Contains(err.Error(), "htpasswd -B FILE bob") {
			t.Errorf("htpasswd %s: %v, want an error that says %q", option, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "secret13chars") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestBadFiles(t *testing.T) {
	good := line(t, "alice", "secret", 4)
	hash := strings.TrimSpace(strings.TrimPrefix(good, "alice:"))
	for content, says := range map[string]string{
		"alice":                        "line 1: there is no colon",
		good + "\nbob:":                "line 3: what stands for the password of bob is empty",
		good + good:                    "line 2: alice is in line 1 already",
		"Alice:" + hash:                `"Alice" is not the name of a user`,
		":" + hash:                     `"" is not the name`,
		"a b:" + hash:                  `"a b" is not`,
		"a..b:" + hash:                 `"a..b" is not`,
		strings.Repeat("a", 65) + ":x": "64 at most",
		"\ufeff" + good:                "is not the name of a user",
		"alice:" + hash + ":x":         "damaged bcrypt",
		"alice:" + hash[:59]:           "damaged bcrypt",
		"alice:" + strings.Replace(hash, "$04$", "$18$", 1): "cost of the hash of alice is 18",
		"alice:" + strings.Replace(hash, "$04$", "$03$", 1): "cost of the hash of alice is 03",
		"alice:" + strings.Replace(hash, "$2a$", "$2x$", 1): "of a version with an error",
		"alice:secret":                  "plain text",
		"x\n" + good + "y\n":            "line 3: there is no colon",
		strings.Repeat("nothing\n", 99): "line 10: ",
	} {
		path := filepath.Join(t.TempDir(), "passwords")
		write(t, path, content)
		_, err := Open(path, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%.80q: %v, want an error that says %q", content, err, says)
			continue
		}
		if strings.Contains(err.Error(), hash[10:]) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "line 11") {
			t.Errorf("%.80q: the error says too much: %v", content, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "missing"), slog.New(slog.DiscardHandler)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	huge := filepath.Join(t.TempDir(), "huge")
	write(t, huge, "")
	if err := os.Truncate(huge, maxSize+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(huge, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestReload(t *testing.T) {
	first, second := line(t, "alice", "first", 4), line(t, "alice", "second", 4)
	change := map[string]func(t *testing.T, path, content string){
		"in place": func(t *testing.T, path, content string) { write(t, path, content) },
		"by another file": func(t *testing.T, path, content string) {
			write(t, path+".new", content)
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"by another file, of the same time": func(t *testing.T, path, content string) {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			write(t, path+".new", content)
			if err := os.Chtimes(path+".new", info.ModTime(), info.ModTime()); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
		"by another link": func(t *testing.T, path, content string) { // as Kubernetes changes a mounted secret
			target, err := os.CreateTemp(filepath.Dir(path), "")
			if err != nil {
				t.Fatal(err)
			}
			target.Close()
			write(t, target.Name(), content)
			if err := os.Symlink(target.Name(), path+".new"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path+".new", path); err != nil {
				t.Fatal(err)
			}
		},
	}
	for how, replace := range change {
		t.Run(how, func(t *testing.T) {
			f, path, log := open(t, first)
			accepted(t, f, "alice", "first")
			for range 3 { // same size each time, and hardly any time between
				replace(t, path, second)
				refused(t, f, "alice", "first")
				accepted(t, f, "alice", "second")
				replace(t, path, first)
				accepted(t, f, "alice", "first")
				refused(t, f, "alice", "second")
			}
			replace(t, path, first+"bob:secret\n")
			for range 3 {
				accepted(t, f, "alice", "first")
				refused(t, f, "bob", "secret")
			}
			if n := log.count("cannot be used"); n != 1 {
				t.Errorf("a broken file was logged %d times", n)
			}
			if log.count("line 2") != 1 || log.count("secret") != 0 {
				t.Errorf("the log is %s", log.text.String())
			}
			replace(t, path, "alice:broken\n")
			accepted(t, f, "alice", "first")
			if n := log.count("cannot be used"); n != 2 {
				t.Errorf("two broken files were logged %d times", n)
			}
			replace(t, path, second)
			accepted(t, f, "alice", "second")
			refused(t, f, "alice", "first")
			if n := log.count("can be used again"); n != 1 {
				t.Errorf("the repair was logged %d times", n)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				accepted(t, f, "alice", "second")
			}
			if n := log.count("no such file"); n != 1 {
				t.Errorf("a missing file was logged %d times", n)
			}
			write(t, path, strings.ReplaceAll(second, "alice", "carol"))
			accepted(t, f, "carol", "second")
			refused(t, f, "alice", "second")
			if n := log.count("can be used again"); n != 2 {
				t.Errorf("the repairs were logged %d times", n)
			}
		})
	}
}

// TestChangeWithinATick: two contents of a file can have the same time and size. Only a time long ago can be relied on; this one is still to come.
func TestChangeWithinATick(t *testing.T) {
	tick := time.Now().Add(time.Hour)
	f, path, _ := open(t, line(t, "alice", "first", 4))
	for _, password := range []string{"second", "third", "fourth"} {
		write(t, path, line(t, "alice", password, 4))
		if err := os.Chtimes(path, tick, tick); err != nil {
			t.Fatal(err)
		}
		accepted(t, f, "alice", password)
	}
}

// TestSettledFileIsNotRead: a file whose last change is long ago is not read again, nor is it when it is broken.
func TestSettledFileIsNotRead(t *testing.T) {
	long := time.Now().Add(-time.Hour)
	f, path, log := open(t, line(t, "alice", "secret", 4))
	for _, content := range []string{line(t, "alice", "secret", 4), "broken\n"} {
		write(t, path, content)
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
		f.Names()
		before := f.version
		f.Names()
		if f.version != before {
			t.Errorf("%.10q was read again", content)
		}
	}
	accepted(t, f, "alice", "secret")
	if n := log.count("cannot be used"); n != 1 {
		t.Errorf("a broken file was logged %d times", n)
	}
}

// TestWorkForUnknownNames: who is not in the file costs a real comparison with a hash of the same cost.
func TestWorkForUnknownNames(t *testing.T) {
	for cost := 4; cost <= maxCost; cost++ {
		h := nobody(cost)
		name, parsed, err := parseLine("x:" + string(h.text))
		if err != nil || name != "x" || parsed.cost != cost {
			t.Errorf("nobody(%d) is %q, %+v, %v", cost, name, parsed, err)
		}
	}
	for _, password := range []string{"", ".", "x"} {
		if err := bcrypt.CompareHashAndPassword(nobody(4).text, []byte(password)); !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
			t.Errorf("nobody's hash with %q: %v", password, err)
		}
	}
}

// TestTurns: who waits for others can give up.
func TestTurns(t *testing.T) {
	f, _, _ := open(t, line(t, "alice", "secret", 4))
	for range cap(f.turns) {
		f.turns <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Authenticate(ctx, "alice", "secret"); !errors.Is(err, context.Canceled) || errors.Is(err, ErrCredentials) {
		t.Errorf("without a turn: %v", err)
	}
	<-f.turns
	accepted(t, f, "alice", "secret")
	accepted(t, f, "alice", "secret") // the turn was given back
}

func TestConcurrentUse(t *testing.T) {
	f, path, _ := open(t, line(t, "alice", "secret", 4))
	lines := []string{line(t, "bob", "x", 4), line(t, "carol", "x", 4), "broken\n"}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 5 {
				accepted(t, f, "alice", "secret")
				refused(t, f, "alice", "wrong")
				f.Names()
			}
		})
	}
	alice := line(t, "alice", "secret", 4)
	for i := range 60 {
		write(t, path+".new", alice+lines[i%len(lines)])
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
}

// FuzzParse: any content is read or refused; what is read are names of users and hashes that bcrypt knows.
func FuzzParse(f *testing.F) {
	f.Add([]byte("alice:$2y$05$5Rr002cjOOwFw5W1ZHpqe.v02sOwaBBDPQfvOiPgEb08NKz0NNkB2\n#\n\nbob:x\r\n"))
	f.Add([]byte("alice:$2y$05$5Rr002cjOOwFw5W1ZHpqe.v02sOwaBBDPQfvOiPgEb08NKz0NNkB2\r\n"))
	f.Add([]byte(":"))
	f.Fuzz(func(t *testing.T, content []byte) {
		u, err := parse(content)
		if err != nil {
			return
		}
		for name, h := range u.hashes {
			if cost, err := bcrypt.Cost(h.text); err != nil || cost != h.cost || cost > u.cost || !userName.MatchString(name) {
				t.Errorf("%q: %q has cost %d of %d, %v", content, name, cost, h.cost, err)
			}
		}
	})
}
