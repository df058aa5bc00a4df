package ratelimit

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

// A push is counted once, when it begins, because clients begin again after a refused POST and give up after a refused manifest. What a
// subject sends to one repository is one push until a tag is set.

// openPushes remembers the pushes that were begun.
type openPushes struct {
	mu  sync.Mutex // held while one begins: clients send several layers at once
	lru *lru.Cache[openPush, progress]
}

type openPush struct {
	id         id
	repository oci.Repository
}

type progress struct {
	last      time.Time // when something of it came
	manifests int       // that came
}

const (
	// pushOpen is how long a push stays open without anything that is sent.
	pushOpen = time.Hour
	// maxManifests is how many manifests one push has, those of all platforms with their attestations.
	maxManifests = 100
)

// BeginUpload counts a push when its first blob comes, or refuses it.
func (l *Limiter) BeginUpload(w *web.Response, s Subject, repository oci.Repository) error {
	return l.push(w, s, repository, false)
}

// PushManifest is BeginUpload for a manifest. If nothing is known of its push, because that was begun at another node or ended with
// the tag of another one, it may overdraw: once more as many pushes are allowed as at once.
func (l *Limiter) PushManifest(w *web.Response, s Subject, repository oci.Repository) error {
	return l.push(w, s, repository, true)
}

func (l *Limiter) push(w *web.Response, s Subject, repository oci.Repository, manifest bool) error {
	if l == nil || !s.counted {
		return nil
	}
	t := l.table(s)
	if t.rates.Pushes.Count == 0 && t.rates.Requests.Count == 0 {
		return nil
	}
	l.pushes.mu.Lock()
	defer l.pushes.mu.Unlock()
	now, key := l.opts.Now(), openPush{s.id, repository}
	p, ok := l.pushes.lru.Get(key)
	if !ok || now.Sub(p.last) >= pushOpen || p.manifests >= maxManifests {
		overdraw := 0
		if manifest {
			overdraw = t.rates.Pushes.Count
		}
		if err := l.take(w, s, t.bucket(s.id, Pushes), Pushes, overdraw); err != nil {
			return err
		}
		p = progress{}
	}
	p.last = now
	if manifest {
		p.manifests++
	}
	key.repository = oci.Repository(strings.Clone(string(repository))) // which would keep the path that it is a part of
	l.pushes.lru.Add(key, p)
	return nil
}

// pushing tells whether a subject has begun a push to a repository.
func (l *Limiter) pushing(s Subject, repository oci.Repository) bool {
	p, ok := l.pushes.lru.Peek(openPush{s.id, repository})
	return ok && l.opts.Now().Sub(p.last) < pushOpen
}

// EndPush tells that a tag was set.
func (l *Limiter) EndPush(s Subject, repository oci.Repository) {
	if l != nil && s.counted {
		l.pushes.lru.Remove(openPush{s.id, repository})
	}
}
