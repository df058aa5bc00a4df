package meta

import (
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/berthregistry/berth/internal/oci"
)

const (
	cacheBytes   = 8 << 20
	cacheMaxBody = 64 << 10 // larger manifests are read anew each time
	entryCost    = 400      // of an entry without a body, roughly
	stripes      = 4096
)

// cache remembers what point reads found. It is exact, not merely recent: a
// process has its SQLite database for itself, every change names the repositories that
// it touches, and their entries are dropped before the change is acknowledged.
// So it answers as SQL would, and takes no right back late. A nil cache remembers nothing.
type cache struct {
	seed     maphash.Seed
	versions [stripes]atomic.Uint64 // by hash of the repository's name

	mu    sync.Mutex
	lru   *simplelru.LRU[cacheKey, cacheEntry]
	bytes int
}

type cacheKey struct {
	repository oci.Repository
	ref        string // a tag, or a digest
	blob       bool   // the blob of that digest, not the manifest
}

type cacheEntry struct {
	version uint64
	value   any // *Manifest or *Blob
	cost    int
}

func newCache() *cache {
	c := &cache{seed: maphash.MakeSeed()}
	lru, err := simplelru.NewLRU(cacheBytes/entryCost, func(_ cacheKey, e cacheEntry) { c.bytes -= e.cost })
	if err != nil {
		panic(err) // the size is a positive constant
	}
	c.lru = lru
	return c
}

func (c *cache) counter(r oci.Repository) *atomic.Uint64 {
	return &c.versions[maphash.String(c.seed, string(r))%stripes]
}

// version must be read before the database is, and handed to put with what was found.
func (c *cache) version(r oci.Repository) uint64 {
	if c == nil {
		return 0
	}
	return c.counter(r).Load()
}

func (c *cache) invalidate(r oci.Repository) { c.counter(r).Add(1) }

func (c *cache) get(k cacheKey) (any, bool) {
	if c == nil {
		return nil, false
	}
	v := c.version(k.repository)
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.lru.Get(k)
	if !ok || e.version != v {
		return nil, false
	}
	return e.value, true
}

func (c *cache) put(k cacheKey, version uint64, value any, body int) {
	if c == nil || body > cacheMaxBody {
		return
	}
	cost := entryCost + body
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(k) // so that the cost of what it replaces is given back
	c.lru.Add(k, cacheEntry{version, value, cost})
	c.bytes += cost
	for c.bytes > cacheBytes {
		c.lru.RemoveOldest()
	}
}
