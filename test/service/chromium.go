package service

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Chromium is a real browser with one page, for what only a browser does: scripts, and the rules about who may load, frame or send what. It is
// driven over a pipe by the Chrome DevTools Protocol.
type Chromium struct {
	t       testing.TB
	out     *os.File
	in      *bufio.Reader
	session string
	last    int

	complaints []string
}

// browserPatience is how long a page may take. It is never reached when all is well.
const browserPatience = 2 * time.Minute

// NewChromium starts a browser, which ends with the test. Without Chromium the test is skipped, or fails if CI=true.
func NewChromium(t testing.TB) *Chromium {
	t.Helper()
	program := need(t, "chromium")
	dir, err := os.MkdirTemp("", "berth-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	end, err := guard(nil, `[ -e "$1/pid" ] && kill -9 -- "-$(cat "$1/pid")" 2>/dev/null; while ! rm -rf "$1"; do sleep 0.1; done`, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// Whoever runs tests as root has no sandbox. What is opened are pages of the test.
	cmd := exec.Command(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
		"--disable-background-networking", "--disable-component-update", "--disable-extensions", "--remote-debugging-pipe", "--user-data-dir="+dir, "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "HOME="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		ourOut.Close()
		ourIn.Close()
	})
	theirIn.Close()
	theirOut.Close()
	if err := os.WriteFile(filepath.Join(dir, "pid"), fmt.Appendln(nil, cmd.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	// A browser that does not answer ends, and with it what waits for an answer.
	timer := time.AfterFunc(2*browserPatience, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	t.Cleanup(func() { timer.Stop() })
	b := &Chromium{t: t, out: ourOut, in: bufio.NewReaderSize(ourIn, 1<<20)}
	var target struct{ TargetID string }
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log"} {
		b.call(domain+".enable", nil, nil)
	}
	return b
}

// call asks the browser to do something, and reads what it answers into result.
func (b *Chromium) call(method string, params, result any) {
	b.t.Helper()
	b.last++
	request := map[string]any{"id": b.last, "method": method}
	if params != nil {
		request["params"] = params
	}
	if b.session != "" {
		request["sessionId"] = b.session
	}
	text, err := json.Marshal(request)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.out.Write(append(text, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	for {
		text, err := b.in.ReadBytes(0)
		if err != nil {
			b.t.Fatalf("%s: the browser has ended: %v", method, err)
		}
		var answer struct {
			ID     int
			Method string
			Params json.RawMessage
			Result json.RawMessage
			Error  *struct{ Message string }
		}
		if err := json.Unmarshal(text[:len(text)-1], &answer); err != nil {
			b.t.Fatal(err)
		}
		switch {
		case answer.Method == "Runtime.exceptionThrown" || answer.Method == "Log.entryAdded":
			b.complaints = append(b.complaints, string(answer.Params))
		case answer.ID == b.last && answer.Error != nil:
			b.t.Fatalf("%s: %s", method, answer.Error.Message)
		case answer.ID == b.last:
			if result != nil {
				if err := json.Unmarshal(answer.Result, result); err != nil {
					b.t.Fatalf("%s: %v in %s", method, err, answer.Result)
				}
			}
			return
		}
	}
}

// Open goes to an address and waits until the page is there.
func (b *Chromium) Open(address string) {
	b.t.Helper()
	b.call("Page.navigate", map[string]any{"url": "about:blank"}, nil) // else another fragment alone would be the same page
	var answer struct{ ErrorText string }
	b.call("Page.navigate", map[string]any{"url": address}, &answer)
	if answer.ErrorText != "" {
		b.t.Fatalf("%s: %s", address, answer.ErrorText)
	}
	b.Wait(`document.readyState === "complete" && location.href !== "about:blank"`)
}

// eval returns the text of a script's value; ok is false while there is no page.
func (b *Chromium) eval(script string) (text string, ok bool) {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}, &answer)
	if answer.Result.Value == nil {
		return "", answer.ExceptionDetails == nil
	}
	return fmt.Sprint(answer.Result.Value), answer.ExceptionDetails == nil
}

// Eval returns the text of a script's value, "" for none.
func (b *Chromium) Eval(script string) string {
	b.t.Helper()
	text, ok := b.eval(script)
	if !ok {
		b.t.Fatalf("%s fails at %s:\n%s", script, b.Eval("location.href"), b.Text())
	}
	return text
}

// Text returns what can be read on the page.
func (b *Chromium) Text() string {
	b.t.Helper()
	return b.Eval(`document.body ? document.body.innerText : ""`)
}

// Wait waits until a script's value is true, also on a page that comes later.
func (b *Chromium) Wait(script string) {
	b.t.Helper()
	for end := time.Now().Add(browserPatience); ; time.Sleep(20 * time.Millisecond) {
		if text, ok := b.eval(script); ok && text == "true" {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("waiting for %s at %s:\n%s\n%s", script, b.Eval("location.href"), b.Text(), strings.Join(b.complaints, "\n"))
		}
	}
}

// Type puts a text into the field that a selector finds, as a keyboard does.
func (b *Chromium) Type(selector, text string) {
	b.t.Helper()
	field := fmt.Sprintf("document.querySelector(%q)", selector)
	b.Wait(field + " !== null")
	b.Eval(field + ".focus(); " + field + ".select()")
	b.call("Input.insertText", map[string]any{"text": text}, nil)
}

// Click clicks on what a selector finds.
func (b *Chromium) Click(selector string) {
	b.t.Helper()
	at := fmt.Sprintf("document.querySelector(%q)", selector)
	b.Wait(at + " !== null")
	b.Eval(at + ".click()")
}

// Complaints returns what the browser has found wrong since the last call: scripts that failed, and what a policy forbade.
func (b *Chromium) Complaints() []string {
	b.Eval("1") // what came before has been read then
	c := b.complaints
	b.complaints = nil
	return c
}
