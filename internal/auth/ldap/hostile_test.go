package ldap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	ldap3 "github.com/go-ldap/ldap/v3"
)

// listen serves each connection of a listener until the test ends, and returns its URL.
func listen(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		stop()
		all.Wait()
	})
	return "ldap://" + l.Addr().String()
}

// answering serves a connection on which each request has the answers that handle returns.
func answering(handle func(id int64, request *ber.Packet) []*ber.Packet) func(net.Conn) {
	return func(c net.Conn) {
		for {
			request, err := ber.ReadPacket(c)
			if err != nil || len(request.Children) < 2 {
				return
			}
			for _, answer := range handle(request.Children[0].Value.(int64), request.Children[1]) {
				if _, err := c.Write(answer.Bytes()); err != nil {
					return
				}
			}
		}
	}
}

func octets(value string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, value, "")
}

func message(id int64, tag ber.Tag, content ...*ber.Packet) *ber.Packet {
	m := ber.NewSequence("")
	m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
	for _, c := range content {
		op.AppendChild(c)
	}
	m.AppendChild(op)
	return m
}

func result(id int64, tag ber.Tag, code int64) *ber.Packet {
	return message(id, tag, ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""), octets(""), octets("said by the test"))
}

func entry(id int64, dn string, attributes ...string) *ber.Packet {
	list := ber.NewSequence("")
	for i := 0; i < len(attributes); i += 2 {
		values := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		values.AppendChild(octets(attributes[i+1]))
		a := ber.NewSequence("")
		a.AppendChild(octets(attributes[i]))
		a.AppendChild(values)
		list.AppendChild(a)
	}
	return message(id, ldap3.ApplicationSearchResultEntry, octets(dn), list)
}

// page is the end of a page that another one follows.
func page(id int64) *ber.Packet {
	p := result(id, ldap3.ApplicationSearchResultDone, 0)
	control := ldap3.NewControlPaging(1)
	control.SetCookie([]byte("more"))
	controls := ber.Encode(ber.ClassContext, ber.TypeConstructed, 0, nil, "")
	controls.AppendChild(control.Encode())
	p.AppendChild(controls)
	return p
}

// directory answers as one that knows alice, whose password is right. Searches for groups get the answers of groups.
func directory(groups func(id int64, filter string) []*ber.Packet) func(net.Conn) {
	return answering(func(id int64, request *ber.Packet) []*ber.Packet {
		switch request.Tag {
		case ldap3.ApplicationBindRequest:
			if request.Children[2].Data.String() == "right" {
				return []*ber.Packet{result(id, ldap3.ApplicationBindResponse, 0)}
			}
			return []*ber.Packet{result(id, ldap3.ApplicationBindResponse, ldap3.LDAPResultInvalidCredentials)}
		case ldap3.ApplicationSearchRequest:
			filter, err := ldap3.DecompileFilter(request.Children[6])
			if err != nil {
				return nil
			}
			done := result(id, ldap3.ApplicationSearchResultDone, 0)
			switch {
			case filter == "(uid=alice)":
				return []*ber.Packet{entry(id, "uid=alice,"+people, "uid", "alice", "entryUUID", "1"), done}
			case strings.HasPrefix(filter, "(uid="):
				return []*ber.Packet{done}
			}
			return groups(id, filter)
		}
		return nil
	})
}

func fakeOptions(url string) Options {
	return Options{
		URL: url, BindDN: "cn=searcher", BindPassword: "right", UserBase: people, GroupBase: inOU,
		DialTimeout: time.Minute, BindTimeout: time.Minute, SearchTimeout: time.Minute,
	}
}

// TestActiveDirectory: where the directory follows groups of groups, it is asked once, by the rule for that.
func TestActiveDirectory(t *testing.T) {
	var filters []string
	serve := func(capability string) string {
		return listen(t, directory(func(id int64, filter string) []*ber.Packet {
			filters = append(filters, filter)
			done := result(id, ldap3.ApplicationSearchResultDone, 0)
			if filter == "(objectClass=*)" {
				return []*ber.Packet{entry(id, "", "supportedCapabilities", capability), done}
			}
			return []*ber.Packet{entry(id, "CN=Devs,"+inOU, "cn", "Devs"), done}
		}))
	}
	for capability, want := range map[string][]string{
		activeDirectory: {"(objectClass=*)", "(member:1.2.840.113556.1.4.1941:=uid=alice," + people + ")"},
		"1.2.3":         {"(objectClass=*)", "(member=uid=alice," + people + ")", "(|(member=CN=Devs," + inOU + "))"},
	} {
		filters = nil
		opts := fakeOptions(serve(capability))
		opts.NestedGroups = true
		p := signIn(t, open(t, opts), "alice", "right")
		if !slices.Equal(p.Groups, []string{"devs"}) || !slices.Equal(filters, want) {
			t.Errorf("groups %q by %q, want %q", p.Groups, filters, want)
		}
	}
}

// TestLyingDirectory: what a directory should not answer ends in an error, be it endless.
func TestLyingDirectory(t *testing.T) {
	var count atomic.Int64
	number := func() string { return fmt.Sprint(count.Add(1)) }
	group := func(id int64, cn string) *ber.Packet { return entry(id, "cn="+cn+","+inOU, "cn", cn) }
	for says, groups := range map[string]func(id int64, filter string) []*ber.Packet{
		"more than 10000": func(id int64, _ string) []*ber.Packet {
			var all []*ber.Packet
			for range 600 {
				all = append(all, group(id, number()))
			}
			return append(all, page(id))
		},
		"come to an end after 1000 pages": func(id int64, _ string) []*ber.Packet { return []*ber.Packet{group(id, "same"), page(id)} },
		"nested more than 64 deep": func(id int64, _ string) []*ber.Packet {
			return []*ber.Packet{group(id, number()), result(id, ldap3.ApplicationSearchResultDone, 0)}
		},
		"a message of 300": func(id int64, _ string) []*ber.Packet { return []*ber.Packet{group(id, strings.Repeat("x", 150_000))} },
		"sent more than 4194304 bytes": func(id int64, _ string) []*ber.Packet {
			return slices.Repeat([]*ber.Packet{group(id, strings.Repeat("x", 100_000))}, 30)
		},
		"DN is empty": func(id int64, _ string) []*ber.Packet { return []*ber.Packet{entry(id, ""), page(id)} },
		"DN is empty, too": func(id int64, _ string) []*ber.Packet {
			return []*ber.Packet{entry(id, strings.Repeat("x", 5000)), page(id)}
		},
		"is not a DN": func(id int64, _ string) []*ber.Packet { return []*ber.Packet{entry(id, "Devs"), page(id)} },
		"result 51": func(id int64, _ string) []*ber.Packet {
			return []*ber.Packet{result(id, ldap3.ApplicationSearchResultDone, ldap3.LDAPResultBusy)}
		},
		"said by the test": func(id int64, _ string) []*ber.Packet {
			return []*ber.Packet{result(id, ldap3.ApplicationSearchResultDone, ldap3.LDAPResultReferral)}
		},
		"search for groups": func(id int64, _ string) []*ber.Packet {
			return []*ber.Packet{message(id, ldap3.ApplicationSearchResultDone)}
		},
		"this is not LDAP": func(int64, string) []*ber.Packet { return []*ber.Packet{octets("HTTP/1.1 400")} },
	} {
		t.Run(says, func(t *testing.T) {
			opts := fakeOptions(listen(t, directory(func(id int64, filter string) []*ber.Packet {
				if filter == "(objectClass=*)" {
					return []*ber.Packet{result(id, ldap3.ApplicationSearchResultDone, 0)}
				}
				return groups(id, filter)
			})))
			opts.NestedGroups = true
			_, err := open(t, opts).Authenticate(t.Context(), "alice", "right")
			isUnavailable(t, err, says)
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// TestLyingAboutAccounts: an entry without DN would be an anonymous bind, which succeeds with every password.
func TestLyingAboutAccounts(t *testing.T) {
	for says, dn := range map[string]string{"DN is empty": "", "DN is empty, too": strings.Repeat("x", 5000)} {
		d := open(t, fakeOptions(listen(t, answering(func(id int64, request *ber.Packet) []*ber.Packet {
			if request.Tag == ldap3.ApplicationBindRequest {
				return []*ber.Packet{result(id, ldap3.ApplicationBindResponse, 0)}
			}
			return []*ber.Packet{entry(id, dn, "uid", "alice", "entryUUID", "1"), result(id, ldap3.ApplicationSearchResultDone, 0)}
		}))))
		p, err := d.Authenticate(t.Context(), "alice", "any")
		if p != nil {
			t.Errorf("signed in as %+v", p)
		}
		isUnavailable(t, err, says)
	}
}

// TestHangingDirectory: it accepts, and says nothing or not enough.
func TestHangingDirectory(t *testing.T) {
	hang := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	drip := func(c net.Conn) { // a byte of an endless message now and then
		for _, err := c.Write([]byte{0x30, 0x83, 1, 0, 0, 0x04, 0x83, 0, 0xff, 0}); err == nil; _, err = c.Write([]byte{0}) {
			time.Sleep(time.Millisecond)
		}
	}
	const soon = 100 * time.Millisecond
	for what, test := range map[string]struct {
		serve  func(net.Conn)
		change func(*Options)
		says   string
	}{
		"bind":          {hang, func(o *Options) { o.BindTimeout = soon }, "bind as the account that searches: no answer in time"},
		"dripping bind": {drip, func(o *Options) { o.BindTimeout = soon }, "bind as the account that searches: no answer in time"},
		"search":        {directory(func(int64, string) []*ber.Packet { return nil }), func(o *Options) { o.SearchTimeout = soon }, "no answer in time"},
		"TLS": {hang, func(o *Options) {
			o.DialTimeout, o.URL = soon, strings.Replace(o.URL, "ldap:", "ldaps:", 1)
		}, "no connection within 100ms"},
		"StartTLS": {hang, func(o *Options) { o.DialTimeout, o.StartTLS = soon, StartTLSOn }, "no connection within 100ms"},
	} {
		t.Run(what, func(t *testing.T) {
			opts := fakeOptions(listen(t, test.serve))
			test.change(&opts)
			d := open(t, opts)
			_, err := d.Authenticate(t.Context(), "alice", "right")
			isUnavailable(t, err, test.says)
			_, err = d.Lookup(t.Context(), "alice")
			isUnavailable(t, err, test.says)
		})
	}
	t.Run("given up", func(t *testing.T) {
		d := open(t, fakeOptions(listen(t, hang)))
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("the client has gone")
		time.AfterFunc(10*time.Millisecond, func() { cancel(enough) })
		_, err := d.Authenticate(ctx, "alice", "right")
		isUnavailable(t, err, enough.Error())
		if !errors.Is(err, enough) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no connection free", func(t *testing.T) {
		opts := fakeOptions(listen(t, hang))
		opts.Connections, opts.DialTimeout = 1, 100*time.Millisecond
		d := open(t, opts)
		d.pool.slots <- struct{}{}
		_, err := d.Authenticate(t.Context(), "alice", "right")
		isUnavailable(t, err, "all 1 are in use")
	})
}

// TestStartTLSRefused: where TLS is wanted and refused, nothing is said in plain text; nor is anything believed that came in plain text.
func TestStartTLSRefused(t *testing.T) {
	var mu sync.Mutex
	var heard bytes.Buffer
	for says, answers := range map[string]func(id int64) []*ber.Packet{
		"StartTLS: result 52": func(id int64) []*ber.Packet {
			return []*ber.Packet{result(id, ldap3.ApplicationExtendedResponse, ldap3.LDAPResultUnavailable)}
		},
		"not one to StartTLS":          func(id int64) []*ber.Packet { return []*ber.Packet{result(id, ldap3.ApplicationBindResponse, 0)} },
		"the answer is not one to Sta": func(id int64) []*ber.Packet { return []*ber.Packet{result(id+1, ldap3.ApplicationExtendedResponse, 0)} },
		"TLS: ": func(id int64) []*ber.Packet {
			return []*ber.Packet{result(id, ldap3.ApplicationExtendedResponse, 0), result(1, ldap3.ApplicationBindResponse, 0), result(2, ldap3.ApplicationBindResponse, 0)}
		},
	} {
		opts := fakeOptions(listen(t, func(c net.Conn) {
			request, err := ber.ReadPacket(c)
			if err != nil {
				return
			}
			for _, a := range answers(request.Children[0].Value.(int64)) {
				_, _ = c.Write(a.Bytes())
			}
			b, _ := io.ReadAll(c)
			mu.Lock()
			defer mu.Unlock()
			heard.Write(b)
		}))
		opts.StartTLS = StartTLSOn
		_, err := open(t, opts).Authenticate(t.Context(), "alice", "right")
		isUnavailable(t, err, says)
	}
	mu.Lock()
	defer mu.Unlock()
	if bytes.Contains(heard.Bytes(), []byte("right")) || bytes.Contains(heard.Bytes(), []byte("searcher")) {
		t.Error("the password was sent in plain text")
	}
}

// TestDirectoryClosesIdleConnections: what shows only when the connection is used again is not the user's problem.
func TestDirectoryClosesIdleConnections(t *testing.T) {
	var served atomic.Int64
	d := open(t, fakeOptions(listen(t, func(c net.Conn) {
		n := served.Add(1)
		serve := directory(func(id int64, _ string) []*ber.Packet {
			return []*ber.Packet{result(id, ldap3.ApplicationSearchResultDone, 0)}
		})
		if n%2 == 1 { // bind, search, bind, bind, groups; and then nothing any more
			var heard int
			serve = answering(func(id int64, request *ber.Packet) (answers []*ber.Packet) {
				if heard++; heard > 5 {
					c.Close()
					return nil
				}
				switch {
				case request.Tag == ldap3.ApplicationBindRequest:
					return []*ber.Packet{result(id, ldap3.ApplicationBindResponse, 0)}
				case heard == 2:
					answers = append(answers, entry(id, "uid=alice,"+people, "uid", "alice", "entryUUID", "1"))
				}
				return append(answers, result(id, ldap3.ApplicationSearchResultDone, 0))
			})
		}
		serve(c)
	})))
	for range 3 {
		signIn(t, d, "alice", "right")
	}
	if n := served.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestUnknownNamesTakeAsLong: an answer about a name that is not there takes one of the times that passwords took.
func TestUnknownNamesTakeAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		start := time.Now()
		if err := p.wait(t.Context(), start); err != nil || time.Since(start) != 0 {
			t.Errorf("without a sample: %v after %s", err, time.Since(start))
		}
		for range 100 {
			p.add(70 * time.Millisecond)
		}
		for range 20 {
			p.add(80 * time.Millisecond)
		}
		taken := map[time.Duration]bool{}
		for range 1000 {
			start := time.Now()
			if err := p.wait(t.Context(), start); err != nil {
				t.Fatal(err)
			}
			taken[time.Since(start)] = true
		}
		if len(taken) != 2 || !taken[70*time.Millisecond] || !taken[80*time.Millisecond] {
			t.Errorf("times: %v", taken)
		}
		// What has passed already counts.
		start = time.Now()
		time.Sleep(60 * time.Millisecond)
		if err := p.wait(t.Context(), start); err != nil || !taken[time.Since(start)] {
			t.Errorf("%v after %s", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.wait(ctx, time.Now()); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	})
}

// TestUnknownNamesWait: the time is spent where the directory has no password to compare with.
func TestUnknownNamesWait(t *testing.T) {
	for _, template := range []string{"", "uid={{name}}," + people} {
		opts := fakeOptions(listen(t, directory(nil)))
		opts.UserDN, opts.GroupBase = template, ""
		if template != "" {
			opts.UserBase = ""
		}
		d := open(t, opts)
		if err := d.Check(t.Context()); err != nil { // its bind is a sample, too
			t.Fatal(err)
		}
		for range len(d.pace.taken) {
			d.pace.add(time.Hour)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := d.Authenticate(ctx, "nobody", "wrong")
		cancel()
		isUnavailable(t, err, context.DeadlineExceeded.Error())
	}
}

func TestUserName(t *testing.T) {
	for name, want := range map[string]string{
		"alice": "alice", "ALICE": "alice", "a": "a", "7": "7", "a.b_c-d": "a.b_c-d", "R2-D2": "r2-d2", strings.Repeat("a", 64): strings.Repeat("a", 64),
	} {
		if got, err := UserName(name); err != nil || got != want {
			t.Errorf("UserName(%q) = %q, %v", name, got, err)
		}
	}
	for _, name := range []string{
		"", ".", "-a", "a-", "a..b", "a._b", "_", "a b", " a", "a@b", "a/b", "ä", "\u212aevin", "ａ", "a\n", "a\x00", "CORP\\a", strings.Repeat("a", 65),
	} {
		if got, err := UserName(name); !errors.Is(err, ErrName) {
			t.Errorf("UserName(%q) = %q, %v, want ErrName", name, got, err)
		}
	}
}

func TestIDs(t *testing.T) {
	guid := []byte{0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xef, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8}
	for _, test := range []struct {
		attribute string
		values    [][]byte
		want      string
	}{
		{"objectGUID", [][]byte{guid}, "01234567-89ab-cdef-0102-030405060708"},
		{"OBJECTGUID", [][]byte{guid}, "01234567-89ab-cdef-0102-030405060708"},
		{"entryUUID", [][]byte{[]byte("a-b")}, "a-b"},
		{"other", [][]byte{{0, 255}}, "00ff"},
		{"other", [][]byte{{1}, {2}}, ""},
		{"other", [][]byte{{}}, ""},
		{"other", nil, ""},
		{"other", [][]byte{bytes.Repeat([]byte("x"), 257)}, ""},
	} {
		e := &ldap3.Entry{Attributes: []*ldap3.EntryAttribute{{Name: test.attribute, ByteValues: test.values}}}
		if got := idOf(e, test.attribute); got != test.want {
			t.Errorf("id of %s %x = %q, want %q", test.attribute, test.values, got, test.want)
		}
	}
	for attribute, want := range map[string]string{
		"objectGUID": `(objectGUID=\67\45\23\01\ab\89\ef\cd\01\02\03\04\05\06\07\08)`, "entryUUID": "(entryUUID=01234567-89ab-cdef-0102-030405060708)",
	} {
		if got := filterByID(attribute, "01234567-89ab-cdef-0102-030405060708"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := filterByID("objectGUID", "*)(uid=*"); got != `(objectGUID=\2a\29\28uid=\2a)` {
		t.Error(got)
	}
}

func FuzzUserName(f *testing.F) {
	f.Add("Alice")
	f.Add("a..b")
	f.Fuzz(func(t *testing.T, name string) {
		got, err := UserName(name)
		if err != nil {
			return
		}
		if again, err := UserName(got); err != nil || again != got || !strings.EqualFold(got, name) || len(got) > 64 {
			t.Errorf("UserName(%q) = %q, of which it is %q, %v", name, got, again, err)
		}
	})
}

// FuzzFilter: whatever is entered is one value of the filter, and nothing more.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{"alice", "*", "a)(b=*", `\2a`, "{{dn}}", "é", "(", "\\"} {
		f.Add(s, "cn="+s)
	}
	f.Fuzz(func(t *testing.T, name, dn string) {
		if !askable(name) || checkDN(dn) != nil {
			return
		}
		p, err := ldap3.CompileFilter(fillFilter("(&(uid={{name}})(member={{dn}}))", name, dn))
		if err != nil {
			t.Fatalf("%q, %q: %v", name, dn, err)
		}
		if p.Tag != ldap3.FilterAnd || len(p.Children) != 2 {
			t.Fatalf("%q, %q: another filter came out", name, dn)
		}
		for i, want := range []string{name, dn} {
			c := p.Children[i]
			if c.Tag != ldap3.FilterEqualityMatch || len(c.Children) != 2 || c.Children[1].Data.String() != want {
				t.Fatalf("%q: another filter came out", want)
			}
		}
	})
}

// FuzzDN: whatever is entered is one value of the DN, and nothing more.
func FuzzDN(f *testing.F) {
	for _, s := range []string{"alice", "a,b", "a+b=c", " a ", "#a", `\`, `\2c`, `"`, "a=b", "ü", ";", "  ", "{{name}}", `\ `} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !askable(name) {
			return
		}
		dn := fillDN("uid={{name}},"+people, name)
		parsed, err := ldap3.ParseDN(dn)
		if err != nil {
			t.Fatalf("%q: %v", dn, err)
		}
		if len(parsed.RDNs) != 4 || len(parsed.RDNs[0].Attributes) != 1 {
			t.Fatalf("%q: another DN came out", dn)
		}
		if a := parsed.RDNs[0].Attributes[0]; a.Type != "uid" || a.Value != name {
			t.Fatalf("%q: %s is %q, not %q", dn, a.Type, a.Value, name)
		}
	})
}

// FuzzBounded: messages are followed as the parser sees them, however they come in pieces.
func FuzzBounded(f *testing.F) {
	f.Add(append(result(1, 1, 0).Bytes(), entry(2, "cn=x", "cn", "x").Bytes()...), uint8(3))
	f.Add([]byte{0x30, 0x84, 0, 0, 0, 1, 5}, uint8(1))
	f.Add([]byte{0x30, 0x80, 0, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		var b bounded
		rest := data
		for len(rest) > 0 {
			n := min(len(rest), int(size)+1)
			if b.follow(rest[:n]) != nil {
				break
			}
			rest = rest[n:]
		}
		whole := bounded{}
		if (len(rest) == 0) != (whole.follow(data) == nil) {
			t.Fatalf("%x: in pieces of %d it is another thing", data, int(size)+1)
		}
		if len(rest) > 0 || b.left > 0 || len(b.head) > 0 {
			return
		}
		// Whole messages: a parser that accepts one must end where it ends.
		reader := bytes.NewReader(data)
		for reader.Len() > 0 {
			before := reader.Len()
			start := data[len(data)-before:]
			var head []byte
			length, complete := 0, false
			for i := 0; !complete; i++ {
				head = append(head, start[i])
				length, complete, _ = messageLength(head)
			}
			if _, err := ber.ReadPacket(reader); err != nil {
				return
			}
			if read := before - reader.Len(); read != len(head)+length {
				t.Fatalf("%x: a message of %d bytes was taken for one of %d", data, read, len(head)+length)
			}
		}
	})
}

// FuzzAnswers: nothing that a directory can send makes a sign-in succeed without a bind, panic or hang.
func FuzzAnswers(f *testing.F) {
	join := func(all ...*ber.Packet) (b []byte) {
		for _, p := range all {
			b = append(b, p.Bytes()...)
		}
		return b
	}
	alice := entry(2, "uid=alice,"+people, "uid", "alice", "entryUUID", "1")
	f.Add(join(result(1, 1, 0), alice, result(2, 5, 0), result(3, 1, 0), result(4, 1, 0), entry(5, "cn=x", "cn", "x"), result(5, 5, 0)))
	f.Add(join(result(1, 1, 0), alice, page(2), result(3, 1, 49)))
	f.Add(join(result(1, 1, 0), result(2, 5, 0)))
	f.Add(join(result(1, 1, 53)))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	d, err := New(fakeOptions("ldap://127.0.0.1"))
	if err != nil {
		f.Fatal(err)
	}
	ends := map[ber.Tag]ber.Tag{ldap3.ApplicationBindRequest: ldap3.ApplicationBindResponse, ldap3.ApplicationSearchRequest: ldap3.ApplicationSearchResultDone}
	f.Fuzz(func(t *testing.T, answers []byte) {
		client, server := net.Pipe()
		c := &conn{d: d, wire: &bounded{Conn: client}}
		c.wire.budget.Store(maxAnswers)
		c.ldap = ldap3.NewConn(c.wire, false)
		c.ldap.Start()
		var all sync.WaitGroup
		all.Go(func() {
			// Each answer after its request, so that it finds somebody who waits for it. Who might wait for more than there
			// is gets the end of the connection.
			defer server.Close()
			rest := bytes.NewReader(answers)
			for {
				request, err := ber.ReadPacket(server)
				if err != nil {
					return
				}
				start := len(answers) - rest.Len()
				complete := false
				for !complete {
					p, err := ber.ReadPacket(rest)
					if err != nil {
						_, _ = server.Write(answers[start:])
						return
					}
					complete = len(p.Children) > 1 && p.Children[0].Value == request.Children[0].Value && p.Children[1].Tag == ends[request.Children[1].Tag]
				}
				if _, err := server.Write(answers[start : len(answers)-rest.Len()]); err != nil {
					return
				}
			}
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		p, err := c.signInBySearch(ctx, "alice", "x")
		cancel()
		c.close()
		server.Close()
		all.Wait()
		if err == nil && (p.Name == "" || p.ID == "") {
			t.Errorf("signed in as %+v", p)
		}
		if err != nil && !errors.Is(err, ErrCredentials) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrName) {
			t.Errorf("an error of no kind: %v", err)
		}
	})
}
