package meta

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgres is a PostgreSQL database. Every change is a transaction of its own on a connection of the pool, and many run at a time.
//
// A connection may be lost at any moment: PostgreSQL restarts, another server takes its place, a firewall forgets. What was
// under way is then done again on another connection, a few times, if that is safe: reads are, and
// changes whose COMMIT has not been sent. After that the caller hears ErrUnavailable.
type postgres struct {
	pool     *pgxpool.Pool
	view     *sql.DB // of the pool
	timeout  time.Duration
	begin    string // begins a transaction
	readOnly bool

	retries atomic.Int64
	reset   atomic.Int64 // when the pool was last emptied, in Unix milliseconds
}

const (
	defaultConnections = 16
	defaultTimeout     = 10 * time.Second
	// attempts is how often something is done at most. The pauses between them add up to about a second.
	attempts = 10
	// startWait is how long Open waits for a database that cannot be reached.
	startWait = 30 * time.Second
)

// The codes of PostgreSQL that mean something here (postgresql.org/docs/15/errcodes-appendix.html).
const (
	foreignKeyViolation  = "23503"
	uniqueViolation      = "23505"
	readOnlyTransaction  = "25006"
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	diskFull             = "53100"
	lockNotAvailable     = "55P03"
	queryCanceled        = "57014"
)

// sqlState returns the code of an error of PostgreSQL, or "".
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// IsFull tells whether err says that there is no room for the database to grow.
func IsFull(err error) bool { return isFull(err) || sqlState(err) == diskFull }

var errReplica = errors.New("the database is a read-only replica")

// retry is a failure after which the same may succeed when it is done again.
type retry struct{ error }

func (r retry) Unwrap() error { return r.error }

func unavailable(why error) error { return fmt.Errorf("%w: %w", ErrUnavailable, why) }

// parsePostgres reads the URL of a database. Its errors name no part of the URL: a password with a character that it
// should not have in there may have been taken for any of them.
func parsePostgres(source string, opts Options, readOnly bool) (config *pgxpool.Config, explicitMode bool, err error) {
	wrong := errors.New("the URL of the database cannot be read: it must be postgres://USER:PASSWORD@HOST:PORT/NAME?sslmode=verify-full, " +
		"with any of / ? # @ : % in user and password written as %2F %3F %23 %40 %3A %25")
	// Several hosts are no URL to Go, so only what comes after them is looked at.
	_, rest, _ := strings.Cut(source, "://")
	if strings.Count(rest, "@") > 1 || strings.Contains(rest, "#") {
		return nil, false, wrong
	}
	_, query, _ := strings.Cut(rest, "?")
	params, err := url.ParseQuery(query)
	if err != nil || strings.Contains(query, "@") {
		return nil, false, wrong
	}
	config, err = pgxpool.ParseConfig(source)
	if err != nil {
		// Of the settings after the question mark none is a secret but these.
		if params.Has("password") || params.Has("sslpassword") {
			return nil, false, wrong
		}
		if _, bare, ok := strings.Cut(rest, "@"); ok {
			if _, err := pgxpool.ParseConfig("postgres://" + bare); err != nil {
				if e, ok := errors.AsType[*pgconn.ParseConfigError](err); ok && e.Unwrap() != nil {
					return nil, false, fmt.Errorf("the URL of the database cannot be read: %w", e.Unwrap())
				}
			}
		}
		return nil, false, wrong
	}

	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false } // what is lost is noticed, and done again
	config.MaxConnLifetimeJitter = config.MaxConnLifetime / 10
	if opts.Connections > 0 {
		config.MaxConns = int32(opts.Connections)
	} else if !params.Has("pool_max_conns") {
		config.MaxConns = defaultConnections
	}
	c := config.ConnConfig
	if !params.Has("connect_timeout") {
		c.ConnectTimeout = min(5*time.Second, timeoutOf(opts))
	}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c.DialFunc = dialer.DialContext
	if !params.Has("target_session_attrs") && !readOnly {
		c.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
			if errors.Is(err, pgconn.ErrReadOnlyConnection) {
				return errReplica
			}
			return err
		}
	}
	return config, params.Has("default_query_exec_mode"), nil
}

func timeoutOf(opts Options) time.Duration { return cmp.Or(opts.Timeout, defaultTimeout) }

func openPostgres(ctx context.Context, source string, opts Options, readOnly bool) (*DB, error) {
	config, explicitMode, err := parsePostgres(source, opts, readOnly)
	if err != nil {
		return nil, err
	}
	c := config.ConnConfig
	p := &postgres{timeout: timeoutOf(opts), begin: "BEGIN ISOLATION LEVEL READ COMMITTED", readOnly: readOnly}
	fail := func(err error) (*DB, error) {
		return nil, fmt.Errorf("open database %s at %s: %w", c.Database, net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))), err)
	}
	first, err := connectFirst(ctx, c)
	if err != nil {
		return fail(err)
	}
	err = func() error {
		defer first.Close(context.WithoutCancel(ctx))
		pooled, err := isPooled(ctx, first)
		if err != nil {
			return err
		}
		p.configure(config, pooled, explicitMode)
		t := &tx{dialect: postgresDialect, on: pgConn{ctx, first}}
		if !readOnly {
			return migratePostgres(ctx, first, steps("postgres"))
		}
		var there bool
		if err := t.queryRow(`SELECT to_regclass('schema_migration') IS NOT NULL`).Scan(&there); err != nil {
			return err
		}
		if !there {
			return errors.New("there is no registry in it: start the server once, it makes one")
		}
		return wantVersion(t, steps("postgres"))
	}()
	if err != nil {
		return fail(err)
	}
	if p.pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), config); err != nil {
		return fail(err)
	}
	p.view = stdlib.OpenDBFromPool(p.pool)
	return &DB{engine: p, statements: new(atomic.Int64), rows: new(atomic.Int64), dialect: postgresDialect, known: new(knownFacts), read: p.view}, nil
}

// connectFirst waits until the database can be reached.
func connectFirst(ctx context.Context, c *pgx.ConnConfig) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	c = c.Copy()
	c.DefaultQueryExecMode = pgx.QueryExecModeExec // works with whatever is there
	var last error
	for {
		conn, err := pgx.ConnectConfig(ctx, c)
		if err == nil {
			return conn, nil
		}
		if last == nil || ctx.Err() == nil { // what was wrong tells more than that the time was over
			last = err
		}
		switch code := sqlState(err); {
		case strings.HasPrefix(code, "28"), code == "3D000": // wrong password, no such database: waiting does not help
			return nil, err
		}
		select {
		case <-time.After(250 * time.Millisecond):
		case <-ctx.Done():
			return nil, unavailable(last)
		}
	}
}

// isPooled tells whether something like pgbouncer is between here and the database: then the key that the connection was given
// is not that of the process that serves it.
func isPooled(ctx context.Context, c *pgx.Conn) (bool, error) {
	var pid uint32
	if err := c.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return false, err
	}
	return pid != c.PgConn().PID(), nil
}

// configure sets what depends on whether connections go through a pooler, where each transaction may be served by another
// process of the database: prepared statements and settings last no longer than that.
func (p *postgres) configure(config *pgxpool.Config, pooled, explicitMode bool) {
	c := config.ConnConfig
	// So that a node that is cut off, or stopped in the middle, does not keep locks.
	limit := strconv.FormatInt(p.timeout.Milliseconds(), 10)
	limits := [][2]string{{"statement_timeout", limit}, {"idle_in_transaction_session_timeout", limit}}
	if pooled {
		for _, l := range limits {
			p.begin += "; SET LOCAL " + l[0] + " = " + l[1]
		}
		if !explicitMode {
			c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		}
		return
	}
	if p.readOnly {
		limits = append(limits, [2]string{"default_transaction_read_only", "on"})
	}
	for _, l := range limits {
		if _, ok := c.RuntimeParams[l[0]]; !ok {
			c.RuntimeParams[l[0]] = l[1]
		}
	}
}

func (p *postgres) close() error {
	err := p.view.Close()
	p.pool.Close()
	return err
}

func (p *postgres) stats() Stats {
	s := p.pool.Stat()
	return Stats{
		Limit: int(s.MaxConns()), Open: int(s.TotalConns()), InUse: int(s.AcquiredConns()),
		Waits: s.EmptyAcquireCount(), Waited: s.EmptyAcquireWaitTime(), Retries: p.retries.Load(),
	}
}

func (p *postgres) check(ctx context.Context) error {
	var readOnly bool
	err := p.queryRow(ctx, []any{&readOnly}, `SELECT current_setting('transaction_read_only') = 'on'`, nil)
	if err == nil && readOnly && !p.readOnly {
		p.forget() // perhaps another server takes changes now
		return unavailable(errReplica)
	}
	return err
}

// repeat does something until it succeeds, fails for good, has been done often enough, or the time is over. What it does gets two
// contexts: one to wait for a connection with, and one to use it with, which does not end when the caller's is cancelled. A
// query that is cancelled costs its connection, which is worth more than the query.
func (p *postgres) repeat(caller context.Context, do func(wait, use context.Context) error) error {
	wait, cancel := context.WithTimeout(caller, p.timeout)
	defer cancel()
	deadline, _ := wait.Deadline()
	use, cancelUse := context.WithDeadline(context.WithoutCancel(caller), deadline)
	defer cancelUse()
	for attempt := 1; ; attempt++ {
		err := do(wait, use)
		again, ok := errors.AsType[retry](err)
		if !ok {
			return err
		}
		if attempt == attempts {
			return again.error
		}
		p.retries.Add(1)
		select {
		case <-time.After(rand.N(min(4*time.Millisecond<<attempt, 200*time.Millisecond))):
		case <-wait.Done():
			return cmp.Or(caller.Err(), again.error)
		}
	}
}

// acquire takes a connection from the pool.
func (p *postgres) acquire(caller context.Context) (*pgxpool.Conn, error) {
	c, err := p.pool.Acquire(caller)
	if err == nil {
		return c, nil
	}
	if errors.Is(caller.Err(), context.Canceled) {
		return nil, caller.Err()
	}
	if caller.Err() != nil {
		return nil, unavailable(fmt.Errorf("wait for a connection: %w", err))
	}
	return nil, retry{unavailable(err)}
}

// failure says what an error on a connection means. It closes the connection if that is worth nothing any more.
func (p *postgres) failure(use context.Context, c *pgxpool.Conn, err error) error {
	if use.Err() != nil {
		p.forget()
		return unavailable(fmt.Errorf("no answer within %s: %w", p.timeout, err))
	}
	if c.Conn().IsClosed() {
		p.forget()
		if _, ok := errors.AsType[*pgconn.PgError](err); !ok {
			return retry{unavailable(fmt.Errorf("the connection was lost: %w", err))}
		}
	}
	code := sqlState(err)
	class := ""
	if len(code) == 5 {
		class = code[:2]
	}
	switch {
	case errors.Is(err, errAgain), code == serializationFailure, code == deadlockDetected:
		return retry{unavailable(err)}
	case code == foreignKeyViolation, code == uniqueViolation:
		return retry{err}
	case code == readOnlyTransaction:
		p.forget()
		_ = c.Conn().Close(use)
		return retry{unavailable(fmt.Errorf("%w: %w", errReplica, err))}
	case code == diskFull:
		return err
	case class == "08", class == "57" && code != queryCanceled: // cut off, or about to be
		return retry{unavailable(err)}
	case class == "53", code == queryCanceled, code == lockNotAvailable, code == "25P03", code == "58030":
		return unavailable(err)
	}
	return err
}

// forget closes the connections that nobody uses, and the others once they are free: when one is lost, most likely all are.
func (p *postgres) forget() {
	now, last := time.Now().UnixMilli(), p.reset.Load()
	if now-last > 1000 && p.reset.CompareAndSwap(last, now) {
		p.pool.Reset()
	}
}

func (p *postgres) queryRow(ctx context.Context, dest []any, text string, args []any) error {
	return p.repeat(ctx, func(wait, use context.Context) error {
		c, err := p.acquire(wait)
		if err != nil {
			return err
		}
		defer c.Release()
		rows, err := pgConn{use, c.Conn()}.query(text, args)
		if err == nil {
			err = oneRow(rows, dest)
		}
		if err == nil || err == ErrNotFound {
			return err
		}
		return p.failure(use, c, err)
	})
}

func (p *postgres) query(ctx context.Context, each func(scan func(...any) error) error, text string, args []any) error {
	return p.repeat(ctx, func(wait, use context.Context) error {
		c, err := p.acquire(wait)
		if err != nil {
			return err
		}
		defer c.Release()
		begun := false
		var refused error // by each
		rows, err := pgConn{use, c.Conn()}.query(text, args)
		if err == nil {
			err = eachRow(rows, func(scan func(...any) error) error {
				begun = true
				refused = each(scan)
				return refused
			})
		}
		if err == nil || refused != nil && !c.Conn().IsClosed() {
			return err
		}
		err = p.failure(use, c, err)
		if r, ok := errors.AsType[retry](err); ok && begun {
			return r.error // each must not see a row twice
		}
		return err
	})
}

func (p *postgres) update(ctx context.Context, do func(*tx) error) error {
	if p.readOnly {
		return errReadOnly
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	exclusive := false
	return p.repeat(ctx, func(wait, use context.Context) error {
		c, err := p.acquire(wait)
		if err != nil {
			return err
		}
		defer c.Release() // which closes it unless the transaction has ended
		if _, err := c.Exec(use, p.begin); err != nil {
			return p.failure(use, c, err)
		}
		t := &tx{on: pgConn{use, c.Conn()}, exclusive: exclusive}
		err = call(do, t)
		exclusive = exclusive || errors.Is(err, errExclusive)
		if err = cmp.Or(err, t.failed); err != nil {
			err = p.failure(use, c, err)
			if !c.Conn().IsClosed() {
				_, _ = c.Exec(use, "ROLLBACK") // else the connection is closed
			}
			return err
		}
		return p.commit(use, c)
	})
}

// commit ends a transaction. If the connection is lost meanwhile, nobody knows whether the change was made: it is
// neither acknowledged nor made again.
func (p *postgres) commit(use context.Context, c *pgxpool.Conn) error {
	if err := use.Err(); err != nil {
		return p.failure(use, c, err)
	}
	_, err := c.Exec(use, "COMMIT")
	if err == nil {
		return nil
	}
	// What pgconn.SafeToRetry says is not believed: it takes an answer that was lost for a command that was not sent.
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.SeverityUnlocalized == "ERROR" {
		return p.failure(use, c, err) // it was refused
	}
	p.forget()
	return unavailable(fmt.Errorf("the connection was lost during a commit, whose outcome is not known: %w", err))
}

// pgConn runs statements on a connection.
type pgConn struct {
	ctx context.Context
	on  *pgx.Conn
}

func (c pgConn) exec(text string, args []any) (int64, error) {
	tag, err := c.on.Exec(c.ctx, text, args...)
	return tag.RowsAffected(), err
}

func (c pgConn) query(text string, args []any) (rows, error) {
	r, err := c.on.Query(c.ctx, text, args...)
	return pgRows{r}, err
}

// pgRows are rows as database/sql has them.
type pgRows struct{ pgx.Rows }

func (r pgRows) Close() error {
	r.Rows.Close()
	return r.Err()
}
