package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	ldap3 "github.com/go-ldap/ldap/v3"
)

// idle is how long a connection is kept that nobody uses: less than the minutes after which firewalls forget it.
const idle = time.Minute

// pool keeps connections for who comes next.
type pool struct {
	slots chan struct{} // one for each connection in use

	mu     sync.Mutex
	free   []*conn // the one last used at the end
	closed bool
}

// conn is a connection to the directory, for one goroutine at a time.
type conn struct {
	d        *Directory
	ldap     *ldap3.Conn
	wire     *bounded
	searcher bool        // it is bound as who searches
	answered bool        // the directory has answered something since it was taken from the pool
	broken   bool        // it must not be used again
	expire   *time.Timer // closes it, while it is free
}

// with calls use with a connection. If the directory has closed one that was kept, which shows when it is used, use is called again
// with a new one; nothing was answered to it by then.
func (d *Directory) with(ctx context.Context, use func(*conn) error) error {
	wait := time.NewTimer(d.opts.DialTimeout)
	defer wait.Stop()
	select {
	case d.pool.slots <- struct{}{}:
	case <-ctx.Done():
		return unavailable("wait for a connection", context.Cause(ctx))
	case <-wait.C:
		return unavailable("wait for a connection", fmt.Errorf("all %d are in use", d.opts.Connections))
	}
	defer func() { <-d.pool.slots }()

	if c := d.pool.take(); c != nil {
		err := use(c)
		again := c.broken && !c.answered && ctx.Err() == nil
		d.pool.put(c)
		if !again {
			return err
		}
	}
	c, err := d.dial(ctx)
	if err != nil {
		return unavailable("connect to "+d.address, err)
	}
	defer d.pool.put(c)
	return use(c)
}

// take returns a free connection, or nil.
func (p *pool) take() *conn {
	for {
		p.mu.Lock()
		last := len(p.free) - 1
		if last < 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.free[last]
		p.free = p.free[:last]
		c.expire.Stop()
		p.mu.Unlock()
		if c.ldap.IsClosing() {
			c.close()
			continue
		}
		c.answered = false
		c.wire.budget.Store(maxAnswers)
		return c
	}
}

// put gives a connection back, or closes it.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	if c.broken || p.closed {
		p.mu.Unlock()
		c.close()
		return
	}
	defer p.mu.Unlock()
	c.wire.budget.Store(maxMessage) // for a notice of disconnection
	_ = c.wire.SetDeadline(time.Time{})
	p.free = append(p.free, c)
	c.expire = time.AfterFunc(idle, func() { p.drop(c) })
}

// drop closes a connection if it is free.
func (p *pool) drop(c *conn) {
	p.mu.Lock()
	for i, f := range p.free {
		if f == c {
			p.free = append(p.free[:i], p.free[i+1:]...)
			p.mu.Unlock()
			c.close()
			return
		}
	}
	p.mu.Unlock()
}

func (p *pool) close() {
	p.mu.Lock()
	free := p.free
	p.free, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range free {
		c.expire.Stop()
		c.close()
	}
}

func (c *conn) close() {
	_ = c.wire.SetDeadline(time.Now().Add(time.Second)) // for the farewell of TLS
	_ = c.ldap.Close()
}

// dial connects, with TLS if that is wanted.
func (d *Directory) dial(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.opts.DialTimeout, fmt.Errorf("no connection within %s", d.opts.DialTimeout))
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", d.address)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	stream := raw
	if d.tls != nil {
		stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
		if stream, err = d.encrypt(ctx, raw); err == nil && !stop() {
			err = context.Cause(ctx)
		}
		stop()
		if err != nil {
			raw.Close()
			return nil, causeOf(ctx, err)
		}
	}
	c := &conn{d: d, wire: &bounded{Conn: stream}, searcher: d.opts.BindDN == ""}
	c.wire.budget.Store(maxAnswers)
	c.ldap = ldap3.NewConn(c.wire, d.tls != nil)
	c.ldap.Start()
	return c, nil
}

// causeOf returns why a context has ended, else the error.
func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// encrypt begins with TLS on a connection, after a StartTLS if it is one to ldap://.
func (d *Directory) encrypt(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if !d.ldaps {
		if err := startTLS(raw); err != nil {
			return nil, fmt.Errorf("StartTLS: %w", reason(err))
		}
	}
	c := tls.Client(raw, d.tls)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return c, nil
}

// startTLS asks for TLS (RFC 4511 section 4.14). It reads nothing beyond the answer, so that nothing that was sent in plain text can be
// taken for an answer over TLS; go-ldap's own StartTLS reads ahead, and knows no timeout.
func startTLS(raw net.Conn) error {
	const id = 1
	message := ber.NewSequence("LDAPMessage")
	message.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, "messageID"))
	request := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap3.ApplicationExtendedRequest, nil, "ExtendedRequest")
	request.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, "1.3.6.1.4.1.1466.20037", "requestName"))
	message.AppendChild(request)
	if _, err := raw.Write(message.Bytes()); err != nil {
		return err
	}
	answer, err := ber.ReadPacket(io.LimitReader(raw, 64<<10))
	if err != nil {
		return err
	}
	if len(answer.Children) < 2 || answer.Children[0].Value != int64(id) || answer.Children[1].Tag != ldap3.ApplicationExtendedResponse {
		return errors.New("the answer is not one to StartTLS")
	}
	return ldap3.GetLDAPError(answer)
}

// do makes one request, which has until the deadline. The connection is broken afterwards unless the directory has answered.
func (c *conn) do(ctx context.Context, deadline time.Time, request func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	_ = c.wire.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.wire.SetDeadline(time.Unix(1, 0)) })
	err := request()
	if !stop() {
		c.broken = true
	}
	if err == nil {
		c.answered = true
		return nil
	}
	var result *ldap3.Error
	if errors.As(err, &result) && result.ResultCode < ldap3.ErrorNetwork {
		c.answered = true
		return err
	}
	c.broken = true
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !time.Now().Before(deadline):
		return errors.New("no answer in time")
	}
	return err
}

// bindSearcher makes the connection that of who searches. That a directory refuses this is never ErrCredentials.
func (c *conn) bindSearcher(ctx context.Context) error {
	if c.searcher {
		return nil
	}
	o := &c.d.opts
	start := time.Now()
	err := c.do(ctx, start.Add(o.BindTimeout), func() error {
		if o.BindDN == "" {
			return c.ldap.UnauthenticatedBind("") // RFC 4513 section 5.1.1: anonymous
		}
		return c.ldap.Bind(o.BindDN, o.BindPassword)
	})
	if err != nil {
		return unavailable("bind as the account that searches", err)
	}
	if o.BindDN != "" {
		c.d.pace.add(time.Since(start))
	}
	c.searcher = true
	return nil
}

// bindUser checks a password.
func (c *conn) bindUser(ctx context.Context, dn, password string) error {
	if dn == "" || password == "" {
		return unavailable("bind", errors.New("the entry has no DN")) // it would be an anonymous bind, which succeeds
	}
	c.searcher = false
	err := c.do(ctx, time.Now().Add(c.d.opts.BindTimeout), func() error { return c.ldap.Bind(dn, password) })
	switch {
	case err == nil:
		return nil
	case !c.broken && ldap3.IsErrorAnyOf(err, refusals...):
		return ErrCredentials // as it is, so that nothing tells it from the one for an unknown name
	}
	return unavailable("bind", err)
}

// refusals are how directories refuse an account: its name or password, or because it is locked or expired.
var refusals = []uint16{
	ldap3.LDAPResultInvalidCredentials, ldap3.LDAPResultInappropriateAuthentication, ldap3.LDAPResultNoSuchObject, ldap3.LDAPResultInvalidDNSyntax,
	ldap3.LDAPResultConstraintViolation, ldap3.LDAPResultUnwillingToPerform, ldap3.LDAPResultInsufficientAccessRights,
}

// unavailable returns an ErrUnavailable that says what failed and why.
func unavailable(doing string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, doing, reason(err))
}

// reason returns an error of go-ldap without the message that it came with, and without more text than fits into a line of a log.
func reason(err error) error {
	var result *ldap3.Error
	if !errors.As(err, &result) {
		return err
	}
	var said string
	if result.Err != nil {
		said = result.Err.Error()
	}
	if result.ResultCode >= ldap3.ErrorNetwork {
		return fmt.Errorf("%.200q", said)
	}
	return fmt.Errorf("result %d (%s): %.200q", result.ResultCode, ldap3.LDAPResultCodeMap[result.ResultCode], said)
}

// What a directory may send, in bytes: one message, and everything while a connection is in use for one person. Parsing takes up
// to a hundred times as much memory.
const (
	maxMessage = 256 << 10
	maxAnswers = 4 << 20
)

// bounded is a connection that fails when the directory sends too much. It follows the messages (RFC 4511 section 5.1), because whoever parses one
// believes its length.
type bounded struct {
	net.Conn
	budget atomic.Int64 // bytes that may still come

	// Of the one goroutine that reads:
	head []byte // the tag and length of a message, as far as they have come
	left int    // bytes that are missing of the message's content
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if b.budget.Add(int64(-n)) < 0 {
		return 0, fmt.Errorf("the directory has sent more than %d bytes", maxAnswers)
	}
	if err := b.follow(p[:n]); err != nil {
		return 0, err
	}
	return n, err
}

// follow looks at bytes that have come.
func (b *bounded) follow(p []byte) error {
	for len(p) > 0 {
		if b.left > 0 {
			n := min(b.left, len(p))
			p, b.left = p[n:], b.left-n
			continue
		}
		b.head, p = append(b.head, p[0]), p[1:]
		length, complete, err := messageLength(b.head)
		if err != nil {
			return err
		}
		if complete {
			b.head, b.left = b.head[:0], length
		}
	}
	return nil
}

// messageLength returns the length of a message's content by the bytes that it begins with, or that there are too few of them.
func messageLength(head []byte) (length int, complete bool, err error) {
	const sequence, long = 0x30, 0x80
	if head[0] != sequence {
		return 0, false, errors.New("this is not LDAP")
	}
	if len(head) == 1 {
		return 0, false, nil
	}
	if head[1] < long {
		return int(head[1]), true, nil
	}
	size := int(head[1] - long)
	if size == 0 || size > 4 {
		return 0, false, errors.New("the length of a message is not well-formed")
	}
	if len(head) < 2+size {
		return 0, false, nil
	}
	for _, c := range head[2:] {
		length = length<<8 | int(c)
	}
	if length > maxMessage {
		return 0, false, fmt.Errorf("a message of %d bytes is larger than %d", length, maxMessage)
	}
	return length, true, nil
}
