// Package ratelimit says how often a client may ask: an account, or, of those who have not signed in, a network.
//
// What holds true: what begins is refused, what was begun may end; a refusal costs the client nothing more, so that whoever goes on asking gets what
// the limit allows; accounts and networks are counted apart, so that nobody who has no account can use up, or have forgotten, what an account
// is counted with; memory is bounded, however many clients there are. What is counted is this process's own, and forgotten with it.
package ratelimit

import (
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/web"
)

// Kind is what is counted. Its text is a label of metrics.
type Kind string

// The kinds.
const (
	Requests Kind = "requests"
	Pulls    Kind = "pulls"
	Pushes   Kind = "pushes"
	SignIns  Kind = "sign_in"
)

// Rate is how many are allowed: Count at once, which come back evenly over Period. The zero Rate allows any number.
type Rate struct {
	Count  int
	Period time.Duration
}

// Rates are those of an account or a network.
type Rates struct{ Requests, Pulls, Pushes Rate }

// Options configure a Limiter.
type Options struct {
	// Client tells the address that a request comes from.
	Client func(*http.Request) netip.Addr
	// Anonymous is for networks of clients that have not signed in.
	Anonymous Rates
	// Accounts is for each account.
	Accounts Rates
	// SignIns is for networks: tokens, and attempts to sign in.
	SignIns Rate
	// IPv4Bits and IPv6Bits are how long the prefix is of what counts as one network.
	IPv4Bits, IPv6Bits int
	// ExemptNetworks and ExemptAccounts are not counted.
	ExemptNetworks []netip.Prefix
	ExemptAccounts []string
	// Refused is told of each refusal. It must be fast and safe for concurrent use.
	Refused func(kind Kind, account bool)
	// Now is the clock.
	Now func() time.Time
}

// Limiter counts. It may be used concurrently. A nil Limiter limits nothing.
type Limiter struct {
	opts     Options
	accounts table
	networks table
	signIns  table
	pushes   openPushes
}

// New returns a Limiter, or nil if there is nothing to limit.
func New(opts Options) *Limiter {
	if opts.Anonymous == (Rates{}) && opts.Accounts == (Rates{}) && opts.SignIns == (Rate{}) {
		return nil
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Limiter{
		opts:     opts,
		accounts: newTable(opts.Accounts),
		networks: newTable(opts.Anonymous),
		signIns:  newTable(Rates{Requests: opts.SignIns}),
		pushes:   openPushes{lru: newLRU[openPush, progress]()},
	}
}

// Subjects returns how many accounts and networks are remembered at this moment.
func (l *Limiter) Subjects() int {
	if l == nil {
		return 0
	}
	return l.accounts.lru.Len() + l.networks.lru.Len() + l.signIns.lru.Len()
}

// Subject is who is counted. The zero Subject is nobody, and not counted.
type Subject struct {
	id      id
	name    string // of the account
	counted bool
}

// id is an account, or else a network. The zero Prefix is where clients have no address.
type id struct {
	account int64
	network netip.Prefix
}

func (s *Subject) String() string {
	switch {
	case s.id.account != 0:
		return "account " + s.name
	case s.id.network.IsValid():
		return "network " + s.id.network.String()
	}
	return "network of the Unix socket"
}

// Network returns the network that a request comes from, by somebody who has not signed in.
func (l *Limiter) Network(r *http.Request) Subject {
	if l == nil {
		return Subject{}
	}
	client := l.opts.Client(r)
	if l.exempt(client) {
		return Subject{}
	}
	bits := l.opts.IPv4Bits
	if client.Is6() {
		bits = l.opts.IPv6Bits
	}
	network, err := client.Prefix(bits)
	if err != nil {
		network = netip.Prefix{}
	}
	return Subject{id: id{network: network}, counted: true}
}

// Account returns the account that a request is made by, or its network if the account is 0.
func (l *Limiter) Account(account int64, name string, r *http.Request) Subject {
	switch {
	case l == nil:
		return Subject{}
	case account == 0:
		return l.Network(r)
	case slices.Contains(l.opts.ExemptAccounts, name), len(l.opts.ExemptNetworks) > 0 && l.exempt(l.opts.Client(r)):
		return Subject{}
	}
	return Subject{id: id{account: account}, name: name, counted: true}
}

func (l *Limiter) exempt(client netip.Addr) bool {
	for _, p := range l.opts.ExemptNetworks {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// table returns where a subject is counted.
func (l *Limiter) table(s Subject) *table {
	if s.id.account != 0 {
		return &l.accounts
	}
	return &l.networks
}

// Request counts a request about a repository, or about none, or refuses it with an *oci.Error. One that belongs to a push that was begun may
// overdraw as Continue does.
func (l *Limiter) Request(w *web.Response, s Subject, repository oci.Repository) error {
	if l == nil || !s.counted {
		return nil
	}
	t := l.table(s)
	bucket := t.bucket(s.id, Requests)
	if bucket == nil || bucket.AllowN(l.opts.Now(), 1) {
		return nil
	}
	overdraw := 0
	if l.pushing(s, repository) {
		overdraw = t.rates.Requests.Count
	}
	return l.take(w, s, bucket, Requests, overdraw)
}

// Continue is Request for what belongs to a pull or a push that was begun. It may overdraw: once more as many requests are allowed as
// at once, for which the next ones that begin something have to wait.
func (l *Limiter) Continue(w *web.Response, s Subject) error {
	if l == nil || !s.counted {
		return nil
	}
	t := l.table(s)
	return l.take(w, s, t.bucket(s.id, Requests), Requests, t.rates.Requests.Count)
}

// SignIn counts a request for a token, or an attempt to sign in, by network. One that was begun before may overdraw as Continue does.
func (l *Limiter) SignIn(w *web.Response, r *http.Request, begun bool) error {
	s := l.Network(r)
	if !s.counted {
		return nil
	}
	overdraw := 0
	if begun {
		overdraw = l.opts.SignIns.Count
	}
	return l.take(w, s, l.signIns.bucket(s.id, SignIns), SignIns, overdraw)
}

// Pull counts the pull of a manifest, and tells the client what is left.
func (l *Limiter) Pull(w *web.Response, s Subject) error { return l.pull(w, s, true) }

// ShowPulls tells a client how many pulls it has, in the headers that Docker Hub has made common.
func (l *Limiter) ShowPulls(w *web.Response, s Subject) { _ = l.pull(w, s, false) }

func (l *Limiter) pull(w *web.Response, s Subject, take bool) (err error) {
	if l == nil || !s.counted {
		return nil
	}
	t := l.table(s)
	bucket := t.bucket(s.id, Pulls)
	if bucket == nil {
		return nil
	}
	if take {
		err = l.take(w, s, bucket, Pulls, 0)
	}
	left := strconv.AppendInt(make([]byte, 0, 32), int64(max(0, bucket.TokensAt(l.opts.Now()))), 10)
	h := w.Header()
	h["Ratelimit-Limit"] = t.pulls
	h["Ratelimit-Remaining"] = []string{string(append(left, t.window...))}
	return err
}

// take takes one from a bucket, which may be overdrawn by so many, or be nil. Two that overdraw at the same time may both have the last one.
func (l *Limiter) take(w *web.Response, s Subject, bucket *rate.Limiter, kind Kind, overdraw int) error {
	if bucket == nil {
		return nil
	}
	now, least := l.opts.Now(), float64(1-overdraw)
	if overdraw == 0 {
		if bucket.AllowN(now, 1) {
			return nil
		}
	} else if bucket.TokensAt(now) >= least {
		bucket.ReserveN(now, 1)
		return nil
	}
	wait := max(1, int(math.Ceil((least-bucket.TokensAt(now))/float64(bucket.Limit()))))
	if l.opts.Refused != nil {
		l.opts.Refused(kind, s.id.account != 0)
	}
	w.Limited = string(kind) + " of " + s.String()
	w.Header()["Retry-After"] = []string{strconv.Itoa(wait)}
	return oci.Errorf(oci.CodeTooManyRequests, "%s: try again in %s", tooMany(kind, s), time.Duration(wait)*time.Second)
}

func tooMany(kind Kind, s Subject) string {
	what, who := string(kind), "from your network"
	if kind == SignIns {
		what = "attempts to sign in"
	}
	if s.id.account != 0 {
		who = "by " + s.name
	}
	return "too many " + what + " " + who
}

// maxSubjects is how many accounts, how many networks, and how many pushes are remembered. Of more, those are forgotten
// that have not asked for the longest time.
const maxSubjects = 1 << 15

func newLRU[K comparable, V any]() *lru.Cache[K, V] {
	c, err := lru.New[K, V](maxSubjects)
	if err != nil {
		panic(err) // maxSubjects is 0
	}
	return c
}

// table is what one kind of subjects is counted with.
type table struct {
	rates  Rates
	lru    *lru.Cache[id, *buckets]
	pulls  []string // the header with the limit of pulls
	window string   // with which that ends
}

// buckets are those of a subject; nil for what is not limited.
type buckets struct{ requests, pulls, pushes *rate.Limiter }

func newTable(r Rates) table {
	window := ";w=" + strconv.FormatInt(int64(r.Pulls.Period/time.Second), 10)
	return table{r, newLRU[id, *buckets](), []string{strconv.Itoa(r.Pulls.Count) + window}, window}
}

// bucket returns what a subject is counted with, or nil if it may do any number of a kind.
func (t *table) bucket(who id, kind Kind) *rate.Limiter {
	var limit Rate
	switch kind {
	case Requests, SignIns:
		limit = t.rates.Requests
	case Pulls:
		limit = t.rates.Pulls
	case Pushes:
		limit = t.rates.Pushes
	}
	if limit.Count == 0 {
		return nil // and no place is taken
	}
	b, ok := t.lru.Get(who)
	if !ok {
		b = &buckets{newBucket(t.rates.Requests), newBucket(t.rates.Pulls), newBucket(t.rates.Pushes)}
		if earlier, ok, _ := t.lru.PeekOrAdd(who, b); ok {
			b = earlier
		}
	}
	switch kind {
	case Pulls:
		return b.pulls
	case Pushes:
		return b.pushes
	}
	return b.requests
}

func newBucket(r Rate) *rate.Limiter {
	if r.Count == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(float64(r.Count)/r.Period.Seconds()), r.Count)
}
