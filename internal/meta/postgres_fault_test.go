package meta

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/test/service"
)

// load pushes images from several clients until it is stopped.
type load struct {
	t    *testing.T
	db   *DB
	stop chan struct{}
	all  sync.WaitGroup

	mu           sync.Mutex
	acknowledged []NewManifest
	unavailable  int
}

func startLoad(t *testing.T, db *DB) *load {
	t.Helper()
	l := &load{t: t, db: db, stop: make(chan struct{})}
	for i := range 8 {
		l.all.Go(func() { l.client(i) })
	}
	return l
}

func (l *load) client(id int) {
	ctx := l.t.Context()
	r := oci.Repository(fmt.Sprint("r", id%3)) // several clients meet in each
	for i := 0; ; i++ {
		select {
		case <-l.stop:
			return
		default:
		}
		seed := fmt.Sprint(id, ".", i)
		shared, own := digestOf("shared by "+fmt.Sprint(i)), digestOf(seed)
		n := document{seed: seed, blobs: []oci.Digest{own, shared}}.build(l.t, r, time.Now(), oci.Tag("t"+seed), "latest")
		err := errors.Join(
			commitBlob(ctx, l.db, NewBlob{Repository: r, Digest: own, Size: 10, Key: newKey(), Now: time.Now()}, func(string) bool { return true }),
			commitBlob(ctx, l.db, NewBlob{Repository: r, Digest: shared, Size: 10, Key: newKey(), Now: time.Now()}, func(string) bool { return true }))
		if err == nil {
			_, err = l.db.PutManifest(ctx, n)
		}
		if err == nil {
			_, err = l.db.Manifest(ctx, r, byDigest(n.Digest), true) // a read, too
		}
		l.mu.Lock()
		switch {
		case err == nil:
			l.acknowledged = append(l.acknowledged, n)
		case errors.Is(err, ErrUnavailable):
			l.unavailable++
		default:
			l.t.Errorf("client %d: %v", id, err)
		}
		l.mu.Unlock()
	}
}

// more waits until n more images were acknowledged.
func (l *load) more(n int) {
	l.t.Helper()
	want := l.count() + n
	for range 6000 {
		if l.count() >= want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Fatalf("only %d images were acknowledged, want %d", l.count(), want)
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acknowledged)
}

// end stops the clients. All that was acknowledged must be there.
func (l *load) end() {
	l.t.Helper()
	close(l.stop)
	l.all.Wait()
	for _, n := range l.acknowledged {
		for _, ref := range []oci.Reference{byDigest(n.Digest), byTag(n.Tags[0])} {
			if m, err := l.db.Manifest(l.t.Context(), n.Repository, ref, true); err != nil || m.Digest != n.Digest || string(m.Body) != string(n.Body) {
				l.t.Fatalf("acknowledged manifest %s: %v", ref, err)
			}
		}
		for _, d := range digests(n) {
			if b, err := l.db.Blob(l.t.Context(), n.Repository, d); err != nil || !b.UnreferencedSince.IsZero() {
				l.t.Fatalf("blob of an acknowledged manifest: %+v, %v", b, err)
			}
		}
	}
	audit(l.t, l.db)
	l.t.Logf("%d images acknowledged, %d refused, %+v", len(l.acknowledged), l.unavailable, l.db.Stats())
}

func TestPostgresRestarts(t *testing.T) {
	c := service.NewPostgres(t)
	db := mustOpen(t, c.Database(t).URL, Options{Timeout: 5 * time.Second})
	l := startLoad(t, db)
	for _, mode := range []string{"fast", "immediate", "fast", "immediate"} {
		l.more(30)
		c.Stop(t, mode)
		if err := db.Check(t.Context()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("without a server: %v", err)
		}
		c.Start(t)
	}
	l.more(30)
	l.end()
	if l.unavailable == 0 || db.Stats().Retries == 0 {
		t.Error("nobody noticed the restarts")
	}
}

// Connections are cut at any point of transactions. Hardly anybody hears of it.
func TestPostgresConnectionsCut(t *testing.T) {
	d := service.Postgres(t)
	db := mustOpen(t, d.URL, Options{})
	l := startLoad(t, db)
	cut := 0
	for range rounds(100) {
		l.more(1)
		side, err := pgx.Connect(t.Context(), d.URL)
		if err != nil {
			t.Fatal(err)
		}
		tag, err := side.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' ORDER BY random() LIMIT 2`)
		if err != nil {
			t.Fatal(err)
		}
		cut += int(tag.RowsAffected())
		side.Close(t.Context())
	}
	l.more(30)
	l.end()
	if retries := db.Stats().Retries; cut < 10 || retries < int64(cut)/4 {
		t.Errorf("%d connections were cut, %d times something was done again", cut, retries)
	}
}

// The server dies and another one takes its place, which has all that was acknowledged.
func TestPostgresFailover(t *testing.T) {
	one := service.NewPostgres(t)
	d := one.Database(t)
	two := one.Standby(t)
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	hosts := fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", two.Port, one.Port) // the first one is a replica
	db := mustOpen(t, strings.Replace(d.URL, u.Host, hosts, 1), Options{Timeout: 5 * time.Second})
	l := startLoad(t, db)
	l.more(50)
	one.Stop(t, "immediate")
	two.Promote(t)
	l.more(50)
	l.end()
}

// A server that only replicates is not written to, and is told as such.
func TestPostgresReplicaByMistake(t *testing.T) {
	c := service.NewPostgres(t)
	d := c.Database(t)
	db := mustOpen(t, d.URL, Options{Timeout: 3 * time.Second})
	image(t, db, "a", "a", "t")
	turn := func(value string) {
		t.Helper()
		c.Exec(t, "postgres", "ALTER SYSTEM SET default_transaction_read_only = "+value)
		c.Exec(t, "postgres", "SELECT pg_reload_conf()")
	}
	turn("on")
	want := func(err error) {
		t.Helper()
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "read-only replica") {
			t.Errorf("error is %v", err)
		}
	}
	for range 100 { // until the server has taken notice
		if err := db.SetSetting(t.Context(), "a", []byte("a")); err != nil {
			want(err)
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	want(db.SetSetting(t.Context(), "a", []byte("a")))
	want(db.Check(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := Open(ctx, d.URL, Options{})
	want(err)
	reader, err := OpenReadOnly(t.Context(), d.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Manifest(t.Context(), "a", byTag("t"), true); err != nil || reader.Check(t.Context()) != nil {
		t.Errorf("a reader: %v", err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
	turn("off")
	for i := 0; ; i++ {
		if err := db.SetSetting(t.Context(), "a", []byte("a")); err == nil {
			break
		} else if want(err); i == 1000 {
			t.Fatal("it takes changes again, but gets none")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// proxy passes connections on, until it is cut off: then bytes get lost without a word. A connection
// that has lost some is reset once the proxy passes on again.
type proxy struct {
	net.Listener
	to    string
	cut   atomic.Bool
	close atomic.Bool // when the server answers next

	mu   sync.Mutex // held also where cut changes to false
	lost []net.Conn
}

func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut.Store(false)
	for _, c := range p.lost {
		c.Close()
	}
	p.lost = nil
}

// lose tells whether what a connection sends is lost.
func (p *proxy) lose(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut.Load() {
		p.lost = append(p.lost, c)
	}
	return p.cut.Load()
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: l, to: to}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(in)
		}
	}()
	return p
}

func (p *proxy) serve(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer out.Close()
	copy := func(to, from net.Conn) {
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			if from == out && n > 0 && p.close.CompareAndSwap(true, false) {
				in.Close()
				out.Close()
				return
			}
			if !p.lose(in) {
				if _, err := to.Write(b[:n]); err != nil {
					return
				}
			}
			if err != nil {
				if tcp, ok := to.(*net.TCPConn); ok {
					_ = tcp.CloseWrite()
				}
				return
			}
		}
	}
	done := make(chan struct{})
	go func() { copy(out, in); close(done) }()
	copy(in, out)
	<-done
}

// A node that is cut off from the database says so in bounded time, and goes on when it is connected again.
func TestPostgresPartition(t *testing.T) {
	d := service.Postgres(t)
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, u.Host)
	u.Host = p.Addr().String()
	db := mustOpen(t, u.String(), Options{Timeout: 500 * time.Millisecond, Connections: 4})
	n := image(t, db, "a", "a", "t")
	p.cut.Store(true)
	var all sync.WaitGroup
	for i := range 12 { // more than there are connections
		all.Go(func() {
			var err error
			switch i % 4 {
			case 0:
				_, err = db.Manifest(t.Context(), "a", byTag("t"), true)
			case 1:
				_, err = db.Tags(t.Context(), "a", "", 10)
			case 2:
				err = db.SetSetting(t.Context(), "s", []byte("s"))
			case 3:
				err = db.Check(t.Context())
			}
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	all.Wait()
	// Who leaves does not wait for that.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.Manifest(ctx, "a", byTag("t"), true); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.heal()
	for i := 0; ; i++ {
		m, err := db.Manifest(t.Context(), "a", byTag("t"), true)
		if err == nil {
			if m.Digest != n.Digest {
				t.Errorf("%+v", m)
			}
			break
		}
		if !errors.Is(err, ErrUnavailable) || i == 100 {
			t.Fatal(err)
		}
	}
	if err := db.SetSetting(t.Context(), "s", []byte("s")); err != nil {
		t.Error(err)
	}
}

// The connection is lost while a change is committed: it is not made twice, and not acknowledged.
func TestPostgresLostCommit(t *testing.T) {
	d := service.Postgres(t)
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := newProxy(t, u.Host)
	u.Host = p.Addr().String()
	db := mustOpen(t, u.String(), Options{Timeout: time.Second, Connections: 1})
	for _, how := range []string{"answer lost", "commit lost", "answer lost, connection closed"} {
		runs, committed := 0, how != "commit lost"
		err := db.update(t.Context(), func(x *tx) error {
			runs++
			if _, err := x.exec(`INSERT INTO setting (name, value) VALUES ($1, $2)`, how, []byte("v")); err != nil {
				return err
			}
			if how == "answer lost" {
				c := x.on.(pgConn)
				if _, err := c.on.Exec(c.ctx, "COMMIT"); err != nil {
					return err
				}
			}
			p.close.Store(strings.HasSuffix(how, "closed"))
			p.cut.Store(!p.close.Load())
			return nil
		})
		p.heal()
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "commit") || runs != 1 {
			t.Errorf("%s: after %d runs: %v", how, runs, err)
		}
		var there int
		if err := db.queryRow(t.Context(), `SELECT COUNT(*) FROM setting WHERE name = $1`, how).Scan(&there); err != nil || (there == 1) != committed {
			t.Errorf("%s: %d rows, %v", how, there, err)
		}
	}
}
