package audit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Transport is how messages reach a syslog server.
type Transport string

// The transports.
const (
	Unix Transport = "unix" // a socket of datagrams, such as /dev/log
	UDP  Transport = "udp"  // RFC 5426
	TCP  Transport = "tcp"  // RFC 6587, with octet counting
	TLS  Transport = "tls"  // RFC 5425
)

// Syslog is a Receiver: a server of syslog, to which each entry is a message of RFC 5424.
//
// The protocol knows no acknowledgement. So with TCP and TLS a batch is a connection: we end it, and have the server's end of it when the server
// has read everything. With UDP and a socket, what the system has taken has arrived, as far as can be known; of UDP a server that is down
// is noticed, and a message that is lost on its way is not.
type Syslog struct {
	Transport Transport
	Address   string // HOST:PORT, or the path of a socket
	Facility  int    // 0 to 23
	// Files in PEM, for TLS: certificates to trust in place of those of the system, and what this side proves itself with, if anything. They are
	// read for each connection, so that they can be replaced.
	CAFile, Certificate, Key string
	// Host is what this machine is called in messages; the system's name if empty.
	Host string
}

// Name implements Receiver.
func (*Syslog) Name() string { return "syslog" }

const (
	// waitEnd is how long a server has to read what it was sent and close the connection.
	waitEnd = 20 * time.Second
	// waitRefusal is how long a machine has to say that nobody receives there (UDP).
	waitRefusal = 200 * time.Millisecond
	// maxMessage is in bytes what servers take when nothing else is configured: more of a message would be cut off. What is too long in an
	// entry is its detail.
	maxMessage = 8000
)

// Check tells what is wrong with the files for TLS, if anything.
func (s *Syslog) Check() error {
	if s.Transport != TLS {
		return nil
	}
	_, err := s.tls()
	return err
}

func (s *Syslog) tls() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if s.CAFile != "" {
		b, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, err
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s has no certificates in PEM", s.CAFile)
		}
	}
	if s.Certificate != "" {
		own, err := tls.LoadX509KeyPair(s.Certificate, s.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// Send implements Receiver.
func (s *Syslog) Send(ctx context.Context, entries []Entry) error {
	network := map[Transport]string{Unix: "unixgram", UDP: "udp", TCP: "tcp", TLS: "tcp"}[s.Transport]
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(ctx, network, s.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	// So that a process that is told to stop does not wait for the server.
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })()
	host := s.Host
	if host == "" {
		host, _ = os.Hostname()
	}
	switch s.Transport {
	case Unix, UDP:
		for i := range entries {
			if _, err := io.WriteString(conn, message(s.Facility, host, &entries[i])); err != nil {
				return err
			}
		}
		if s.Transport == UDP {
			return refusal(conn)
		}
		return nil
	case TLS:
		config, err := s.tls()
		if err != nil {
			return err
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return err
		}
		conn = secure
	}
	var b []byte
	for i := range entries {
		m := message(s.Facility, host, &entries[i])
		b = append(strconv.AppendInt(b, int64(len(m)), 10), ' ')
		b = append(b, m...)
		if len(b) < 64<<10 && i < len(entries)-1 {
			continue
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	return finish(conn)
}

// refusal waits a moment for the answer that nobody receives datagrams.
func refusal(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(waitRefusal)); err != nil {
		return err
	}
	var b [1]byte
	_, err := conn.Read(b[:])
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// finish ends a connection and waits until the other side, which has read everything then, does.
func finish(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T cannot be closed in one direction", conn)
	}
	if err := ended(conn); err != nil {
		return err
	}
	if err := half.CloseWrite(); err != nil {
		return err
	}
	if err := conn.SetReadDeadline(time.Now().Add(waitEnd)); err != nil {
		return err
	}
	switch _, err := io.Copy(io.Discard, io.LimitReader(conn, 1<<20)); {
	case err == nil, errors.Is(err, io.ErrUnexpectedEOF): // of TLS without a last message: nothing is read from there anyway
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the server has not closed the connection within %s after everything was sent: nobody knows whether it has read it", waitEnd)
	default:
		return err
	}
}

// ended fails if the other side has ended the connection by itself: what was sent since has not been read.
func ended(conn net.Conn) error {
	if _, ok := conn.(*tls.Conn); ok {
		return nil // the end would have to be read by the TLS, which does not go on after a deadline
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		return err
	}
	var b [1]byte
	switch _, err := conn.Read(b[:]); {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("the server has closed the connection before everything was sent")
	default:
		return err
	}
}

const (
	severityWarning = 4 // what was not allowed
	severityNotice  = 5
)

// message returns an entry as RFC 5424 has it: the message is the JSON of the entry, its MSGID the action.
func message(facility int, host string, e *Entry) string {
	severity := severityNotice
	if !e.Allowed {
		severity = severityWarning
	}
	head := fmt.Sprintf("<%d>1 %s %s berth - %s - ", facility*8+severity, e.At.UTC().Format("2006-01-02T15:04:05.000Z"), printable(host, 255), printable(e.Action, 32))
	text := line(e)
	for cut := *e; len(head)+len(text) > maxMessage && cut.Detail != ""; text = line(&cut) {
		cut.Detail = strings.TrimSuffix(cut.Detail, "…")
		keep := len(cut.Detail) * 3 / 4
		cut.Detail = strings.ToValidUTF8(cut.Detail[:keep], "")
		if cut.Detail != "" {
			cut.Detail += "…"
		}
	}
	return head + text
}

// printable returns a field of a header, which has visible ASCII characters only, up to a length, or is "-".
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), most)]
}
