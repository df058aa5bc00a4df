package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStoresWhatIsPut(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	go run(addr, dir)
	client := &http.Client{Timeout: 10 * time.Second}
	// Sizes around the buffer's, and twice over one connection.
	for _, size := range []int{1, 100, bufferSize - 1, bufferSize, 3*bufferSize + 5} {
		body := bytes.Repeat([]byte{byte(size), 7}, size)[:size]
		sum := sha256.Sum256(body)
		want := hex.EncodeToString(sum[:])
		for range 2 {
			resp := put(t, client, "http://"+addr+"/v2/any/blobs/x", body)
			if resp.StatusCode != 201 || resp.Header.Get("Docker-Content-Digest") != "sha256:"+want {
				t.Fatalf("size %d: %s, %v", size, resp.Status, resp.Header)
			}
		}
		got, err := os.ReadFile(filepath.Join(dir, want))
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("size %d: %d bytes are stored, %v", size, len(got), err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "incoming-*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// put retries while the server does not listen yet.
func put(t *testing.T, client *http.Client, url string, body []byte) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			return resp
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}
