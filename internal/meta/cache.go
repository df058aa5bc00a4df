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
	entries  bounded[cacheKey, cacheEntry]
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
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

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
	e, ok := c.entries.get(k)
	if !ok || e.version != v {
		return nil, false
	}
	return e.value, true
}

func (c *cache) put(k cacheKey, version uint64, value any, body int) {
	if c == nil || body > cacheMaxBody {
		return
	}
	c.entries.put(k, cacheEntry{version, value}, entryCost+body)
}

// bounded remembers what was asked for last, in cacheBytes at most. The zero value is empty.
type bounded[K comparable, V any] struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[K, costing[V]]
	bytes int
}

type costing[V any] struct {
	value V
	cost  int
}

func (b *bounded[K, V]) get(k K) (v V, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lru == nil {
		return v, false
	}
	e, ok := b.lru.Get(k)
	return e.value, ok
}

// put remembers a value that takes about cost bytes, entryCost or more.
func (b *bounded[K, V]) put(k K, v V, cost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lru == nil {
		var err error
		if b.lru, err = simplelru.NewLRU(cacheBytes/entryCost, func(_ K, e costing[V]) { b.bytes -= e.cost }); err != nil {
			panic(err) // the size is a positive constant
		}
	}
	b.lru.Remove(k) // so that the cost of what it replaces is given back
	b.lru.Add(k, costing[V]{v, cost})
	b.bytes += cost
	for b.bytes > cacheBytes {
		b.lru.RemoveOldest()
	}
}
