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
// So it answers as SQL would, and takes no right back late: whatever changes rights drops all Facts. A nil cache remembers nothing.
type cache struct {
	seed     maphash.Seed
	versions [stripes]atomic.Uint64 // by hash of the repository's name
	rights   atomic.Uint64          // of everything that access.Facts are made of, repositories aside

	mu    sync.Mutex
	lru   *simplelru.LRU[cacheKey, cacheEntry]
	bytes int
}

type cacheKey struct {
	repository oci.Repository
	ref        string // a tag, or a digest
	kind       cacheKind
	account    int64 // of ofFacts, as the next
	credential int64
}

type cacheKind uint8

const (
	ofManifest cacheKind = iota
	ofBlob
	ofFacts
	ofFreeze // repository is the organization
)

type cacheEntry struct {
	version uint64
	value   any // *Manifest, *Blob, *access.Facts or *policy.Set
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
func (c *cache) version(k cacheKey) uint64 {
	if c == nil {
		return 0
	}
	v := c.counter(k.repository).Load()
	if k.kind == ofFacts || k.kind == ofFreeze {
		v += c.rights.Load() // both only grow, so the sum stays the same only if both do
	}
	return v
}

func (c *cache) invalidate(r oci.Repository) { c.counter(r).Add(1) }

func (c *cache) get(k cacheKey) (any, bool) {
	if c == nil {
		return nil, false
	}
	v := c.version(k)
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
