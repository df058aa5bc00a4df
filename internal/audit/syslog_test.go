package audit

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/berthregistry/berth/test/service"
)

// parsed reads what a real server made of messages.
func parsed(t *testing.T, messages []string) []Entry {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var all []Entry
	for _, m := range messages {
		fields := strings.SplitN(m, " ", 6)
		var e Entry
		if len(fields) != 6 || json.Unmarshal([]byte(fields[5]), &e) != nil {
			t.Fatalf("a message is %q", m)
		}
		at, err := time.Parse(time.RFC3339, fields[1])
		if err != nil || !at.Equal(e.At) || fields[0] != map[bool]string{true: "109", false: "108"}[e.Allowed] || fields[2] != host || fields[3] != "berth" || fields[4] != e.Action {
			t.Fatalf("a message is %q", m)
		}
		all = append(all, e)
	}
	return all
}

// What a real server gets is what it takes for messages, by each transport. While it is down nothing is lost.
func TestSyslog(t *testing.T) {
	server := service.NewSyslog(t)
	from := 0
	for _, to := range []*Syslog{
		{Transport: TCP, Address: server.TCP, Facility: 13},
		{Transport: TLS, Address: server.TLS, Facility: 13, CAFile: server.CAFile},
		{Transport: Unix, Address: server.Socket, Facility: 13},
		{Transport: UDP, Address: server.UDP, Facility: 13},
	} {
		t.Run(string(to.Transport), func(t *testing.T) {
			db := open(t, file(t))
			f := forwarder(db, to)
			arrive := func(n int) {
				t.Helper()
				add(t, db, from, from+n)
				if _, err := f.run(t.Context()); err != nil {
					t.Fatal(err)
				}
				from += n
				for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
					got := objects(parsed(t, server.Messages(t)))
					if slices.Equal(got, numbers(0, from)) {
						return
					}
					if time.Now().After(deadline) {
						t.Fatalf("%d of %d entries arrived", len(got), from)
					}
				}
			}
			arrive(3)
			arrive(40)
			server.Stop()
			add(t, db, from, from+5)
			from += 5
			if _, err := f.run(t.Context()); err == nil {
				t.Error("a server that is down gets messages")
			}
			server.Start(t)
			arrive(5)
		})
	}
}

// A server whose certificate nobody vouches for gets nothing.
func TestSyslogTrust(t *testing.T) {
	server := service.NewSyslog(t)
	s := &Syslog{Transport: TLS, Address: server.TLS}
	if err := s.Send(t.Context(), []Entry{{Action: "push"}}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the failure is %v", err)
	}
	if got := server.Messages(t); len(got) > 0 {
		t.Errorf("it got %q", got)
	}
}

// What was sent to a server that did not read it has not arrived.
func TestSyslogUnread(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, serve := range map[string]func(net.Conn){
		"at once": func(c net.Conn) { c.Close() },
		"after a part": func(c net.Conn) {
			c.Read(make([]byte, 10))
			c.Close()
		},
	} {
		go func() {
			if c, err := l.Accept(); err == nil {
				serve(c)
			}
		}()
		entries := make([]Entry, batch)
		for i := range entries {
			entries[i] = Entry{Action: "push", Detail: strings.Repeat("x", 4<<10)}
		}
		if err := (&Syslog{Transport: TCP, Address: l.Addr().String()}).Send(t.Context(), entries); err == nil {
			t.Errorf("%s: a server that closes the connection has got everything", name)
		}
	}
}

// A message is never longer than what servers take, and its text is always JSON.
func FuzzMessage(f *testing.F) {
	f.Add("push", "team/app", "as v1")
	f.Add("a b", "", strings.Repeat("\x01\"<é", 2000))
	f.Add("", strings.Repeat("o", 1024), strings.Repeat("\\", 4096))
	f.Fuzz(func(t *testing.T, action, object, detail string) {
		if len(object) > 1<<10 || len(action) > 100 {
			return
		}
		e := Entry{At: time.UnixMilli(0), ID: 7, Action: action, Object: object, Detail: detail}
		m := message(13, "host", &e)
		head, text, ok := strings.Cut(m, " - {")
		if len(m) > maxMessage || !ok || len(strings.Fields(head)) != 6 || !utf8.ValidString(m) {
			t.Fatalf("%d bytes: %q", len(m), m)
		}
		var got Entry
		if err := json.Unmarshal([]byte("{"+text), &got); err != nil {
			t.Fatalf("%v: %q", err, m)
		}
		if got.ID != e.ID || strings.ContainsAny(m, "\n\x00") {
			t.Fatalf("%q", m)
		}
	})
}

func ExampleSyslog() {
	e := Entry{At: time.UnixMilli(1790000000123), ID: 7, Actor: "ann", Client: "192.0.2.1", Action: "push", Object: "team/app", Detail: "as v1", Allowed: true}
	fmt.Println(message(13, "node-1", &e))
	// Output: <109>1 2026-09-21T14:13:20.123Z node-1 berth - push - {"at":"2026-09-21T14:13:20.123Z","id":7,"actor":"ann","client":"192.0.2.1","action":"push","object":"team/app","detail":"as v1","allowed":true}
}
