package meta

import (
	"fmt"
	"testing"
)

func TestSQLiteCacheIsBounded(t *testing.T) {
	c := newCache()
	fill := func(n, body int) {
		for i := range n {
			c.put(cacheKey{repository: "r", ref: fmt.Sprint(i)}, c.version(cacheKey{repository: "r"}), i, body)
			if c.entries.bytes > cacheBytes {
				t.Fatalf("%d bytes after %d entries of %d", c.entries.bytes, i, body)
			}
		}
	}
	sum := func() (bytes int) {
		for _, k := range c.entries.lru.Keys() {
			e, _ := c.entries.lru.Peek(k)
			bytes += e.cost
		}
		return bytes
	}
	fill(30_000, 0)
	fill(1_000, cacheMaxBody)
	fill(30_000, 100)
	for range 3 {
		fill(100, 1000) // replaces entries
	}
	if got := sum(); got != c.entries.bytes || got < cacheBytes/2 {
		t.Errorf("the entries have %d bytes, the cache counts %d", got, c.entries.bytes)
	}
	if _, ok := c.get(cacheKey{repository: "r", ref: "99"}); !ok {
		t.Error("the newest entry is not there")
	}
	c.put(cacheKey{repository: "r", ref: "large"}, c.version(cacheKey{repository: "r"}), 1, cacheMaxBody+1)
	if _, ok := c.get(cacheKey{repository: "r", ref: "large"}); ok {
		t.Error("an entry that is too large was taken")
	}
}

func TestSQLiteCacheKeys(t *testing.T) {
	c := newCache()
	d := digestOf("d").String()
	keys := []cacheKey{{repository: "a", ref: d}, {repository: "a", ref: d, kind: ofBlob}, {repository: "b", ref: d}, {repository: "a", ref: "t"}}
	for i, k := range keys {
		c.put(k, c.version(k), i, 0)
	}
	for i, k := range keys {
		if v, ok := c.get(k); !ok || v != i {
			t.Errorf("%v: %v, %v", k, v, ok)
		}
	}
	old := c.version(cacheKey{repository: "a"})
	c.invalidate("a")
	for _, k := range keys {
		if _, ok := c.get(k); ok != (k.repository == "b") {
			t.Errorf("%v after a change to a: %v", k, ok)
		}
	}
	c.put(keys[0], old, 7, 0) // read before the change, put after it
	if _, ok := c.get(keys[0]); ok {
		t.Error("what was read before a change is believed after it")
	}
	var none *cache
	none.put(keys[0], none.version(keys[0]), 1, 0)
	if _, ok := none.get(keys[0]); ok {
		t.Error("no cache remembers")
	}
}
