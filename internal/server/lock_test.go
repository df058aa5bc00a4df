package server

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestMain lets the test binary be a second process that holds a data folder.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TEST_HOLD_DATA"); dir != "" {
		if _, err := LockData(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // until the test ends it
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestOneProcessHoldsTheDataFolder(t *testing.T) {
	dir := t.TempDir()
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), "TEST_HOLD_DATA="+dir)
	if _, err := other.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Process.Kill()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "locked\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}

	want := fmt.Sprintf("the data folder %s is in use by another server: process %d on ", dir, other.Process.Pid)
	if _, err := LockData(dir); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("the folder is locked by another process: %v, want %s…", err, want)
	}

	// A killed process holds nothing, whatever it has left in the folder.
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	lock, err := LockData(dir)
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}
	note, err := os.ReadFile(filepath.Join(dir, lockName))
	if err != nil || !strings.HasPrefix(string(note), fmt.Sprintf("process %d on ", os.Getpid())) {
		t.Errorf("the note says %q, %v", note, err)
	}

	// Within one process, too.
	if _, err := LockData(dir); err == nil {
		t.Error("the folder is locked twice")
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := LockData(dir)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := again.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestReadersShareTheDataFolder(t *testing.T) {
	dir := t.TempDir()
	one, err := LockDataShared(dir)
	if err != nil {
		t.Fatal(err)
	}
	two, err := LockDataShared(dir)
	if err != nil {
		t.Fatalf("a second reader: %v", err)
	}
	if err := one.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := LockData(dir); err == nil {
		t.Error("somebody can write beside a reader")
	}
	if err := two.Release(); err != nil {
		t.Fatal(err)
	}
	writer, err := LockData(dir)
	if err != nil {
		t.Fatalf("after the last reader: %v", err)
	}
	if _, err := LockDataShared(dir); err == nil || !strings.Contains(err.Error(), "is in use by a server that writes to it: process ") {
		t.Errorf("reading beside a writer: %v", err)
	}
	if err := writer.Release(); err != nil {
		t.Fatal(err)
	}
}

func TestLockOfAMissingFolder(t *testing.T) {
	if _, err := LockData(filepath.Join(t.TempDir(), "absent")); err == nil || !strings.Contains(err.Error(), "lock the data folder") {
		t.Errorf("the error is %v", err)
	}
}
