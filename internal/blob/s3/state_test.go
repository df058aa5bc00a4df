package s3

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

func randomETag() string {
	b := make([]byte, 16)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func states() map[string]*state {
	return map[string]*state{
		"object":      {etag: randomETag()},
		"odd etag":    {etag: "x"},
		"no etag":     {},
		"parts":       {multipart: true, id: "upload", crc: true, parts: []sent{{size: 8 << 20, etag: randomETag(), crc: 1 << 31}, {size: 5 << 20, etag: "W-\"odd\"", crc: 7}}},
		"inline tail": {multipart: true, id: "u", parts: []sent{{size: 1, etag: "E"}}, tail: tail{inline: []byte{0, 1, 2}}},
		"tail": {
			multipart: true, id: strings.Repeat("long", 100), parts: []sent{{size: 8 << 20, etag: randomETag()}},
			tail: tail{
				segments: []segment{{name: newSegment(), size: 70_000}, {name: newSegment(), size: 1 << 20}},
				inline:   []byte("xyz"), part: &sent{size: 70_000 + 1<<20 + 3, etag: randomETag()},
			},
			stale: []string{newSegment(), newSegment()},
		},
	}
}

func TestState(t *testing.T) {
	for name, want := range states() {
		t.Run(name, func(t *testing.T) {
			data := want.encode()
			got, err := decodeState(data)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			for n := 1; n < len(data); n++ {
				if _, err := decodeState(data[:n]); err == nil {
					t.Errorf("the first %d bytes of %d are a state, too", n, len(data))
				}
			}
			if _, err := decodeState(append(bytes.Clone(data), 0)); err == nil {
				t.Error("a byte more is a state, too")
			}
			data[0]++
			if _, err := decodeState(data); err == nil {
				t.Error("another version is read as this one")
			}
		})
	}
	if s, err := decodeState(nil); err != nil || s.multipart {
		t.Errorf("no data: %+v, %v", s, err)
	}
}

func TestStateSize(t *testing.T) {
	s := &state{multipart: true, id: strings.Repeat("i", 150), crc: true}
	for range maxParts {
		s.parts = append(s.parts, sent{size: largestHeld, etag: randomETag(), crc: 1})
	}
	if n := len(s.encode()); n > 300<<10 {
		t.Errorf("the state of %d parts has %d bytes", maxParts, n)
	}
}

// FuzzState has a decoded state be what was encoded, and nothing panic or take much memory.
func FuzzState(f *testing.F) {
	for _, s := range states() {
		f.Add(s.encode())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data)
		if err != nil || len(data) == 0 {
			return
		}
		if got := s.encode(); !bytes.Equal(got, data) {
			t.Errorf("%x is read as %+v, which is written as %x", data, s, got)
		}
		if s.size() < 0 || s.size() > maxObject {
			t.Errorf("a state of %d bytes", s.size())
		}
	})
}
