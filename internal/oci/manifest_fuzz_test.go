package oci

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// A manifest of the size that must be accepted (spec.md#pushing-manifests) is read in reasonable time.
func TestLargeManifest(t *testing.T) {
	for name, fill := range map[string]func() string{
		"annotations": func() string { return `"annotations":{"a":"` + strings.Repeat("x", 4<<20-1000) + `"},` },
		"unknown":     func() string { return `"x":[` + strings.Repeat(`{},`, (4<<20-1000)/3) + `1],` },
		"spaces":      func() string { return strings.Repeat(" ", 4<<20-1000) },
	} {
		body := image(fill())
		start := time.Now()
		if m, err := ParseManifest(MediaTypeImage, []byte(body)); err != nil || len(m.Blobs) != 3 {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("%s: %d bytes took %v", name, len(body), took)
		}
	}
	var children []string
	for i := range 25_000 {
		children = append(children, desc(MediaTypeImage, DigestBytes(SHA256, fmt.Append(nil, i)), i))
	}
	body := `{"schemaVersion":2,"manifests":[` + strings.Join(children, ",") + `]}`
	start := time.Now()
	m, err := ParseManifest("", []byte(body))
	if err != nil || len(m.Manifests) != len(children) {
		t.Fatalf("%d bytes of children: %v", len(body), err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("%d children took %v", len(children), took)
	}
}

// What is sent to cost memory costs little more than its bytes.
func TestHostileManifestsAreCheap(t *testing.T) {
	const size = 1 << 20
	var names strings.Builder
	for i := 0; names.Len() < size; i++ {
		fmt.Fprintf(&names, `"%x":0,`, i)
	}
	for name, body := range map[string]string{
		"a million empty layers":     `{"schemaVersion":2,"layers":[` + strings.Repeat("{},", size/3) + `{}]}`,
		"a million null layers":      `{"schemaVersion":2,"layers":[` + strings.Repeat("null,", size/5) + `null]}`,
		"a million empty children":   `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", size/3) + `{}]}`,
		"a million unknown fields":   `{` + names.String() + `"schemaVersion":2}`,
		"a million fields of config": `{"schemaVersion":2,"config":{` + names.String() + `"size":1}}`,
		"unknown nests":              `{"schemaVersion":2,"x":` + strings.Repeat("[[],", size/4) + "[]" + strings.Repeat("]", size/4) + `}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ParseManifest("", []byte(body))
		runtime.ReadMemStats(&after)
		wantCode(t, err, CodeManifestInvalid)
		if used := after.TotalAlloc - before.TotalAlloc; used > 40*size {
			t.Errorf("%s: %d bytes were allocated for %d", name, used, len(body))
		}
	}
}

func FuzzManifest(f *testing.F) {
	for _, header := range []string{"", MediaTypeImage, MediaTypeIndex, MediaTypeDockerImage, MediaTypeDockerIndex, schema1Signed, "a/b; c", ";"} {
		f.Add(header, []byte(image("")))
		f.Add(header, []byte(index("")))
	}
	f.Add("", []byte(image(typed(MediaTypeImage)+`"subject":`+desc(MediaTypeImage, dB, 7)+`,"artifactType":"x","annotations":{"a":"b"},`)))
	f.Add("", []byte(index(typed(MediaTypeIndex)+`"Manifests":[],"config":null,`)))
	f.Add("", []byte(image(`"layers":[`+desc("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", dB, 1)+`],`)))
	f.Add("", []byte(`{"schemaVersion":1,"fsLayers":[]}`))
	f.Add("", []byte(`[[[[`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		before := string(body)
		m, err := ParseManifest(contentType, body)
		if string(body) != before {
			t.Fatal("the body was altered")
		}
		if err != nil {
			wantCode(t, err, CodeManifestInvalid)
			return
		}
		checkManifest(t, m)
		// What is stored can be read again, as a check of the database does.
		again, err := ParseManifest(m.MediaType, body)
		if err != nil {
			t.Fatalf("accepted as %q, but not as the type that it has, %q: %v", contentType, m.MediaType, err)
		}
		if !slices.Equal(digests(again.Blobs), digests(m.Blobs)) || !slices.Equal(digests(again.Manifests), digests(m.Manifests)) {
			t.Fatalf("read again it differs: %+v, %+v", m, again)
		}
		var any map[string]json.RawMessage
		if err := json.Unmarshal(body, &any); err != nil {
			t.Fatalf("accepted, but it is no JSON object: %v", err)
		}
	})
}

// checkManifest holds an accepted manifest against what the package promises.
func checkManifest(t *testing.T, m *Manifest) {
	t.Helper()
	if !slices.Contains([]string{MediaTypeImage, MediaTypeIndex, MediaTypeDockerImage, MediaTypeDockerIndex}, m.MediaType) {
		t.Fatalf("media type %q", m.MediaType)
	}
	if m.IsIndex() && len(m.Blobs) > 0 || !m.IsIndex() && (len(m.Blobs) == 0 || len(m.Manifests) > 0 || m.ArtifactType == "") {
		t.Fatalf("%s with %d blobs, %d manifests, artifact type %q", m.MediaType, len(m.Blobs), len(m.Manifests), m.ArtifactType)
	}
	all := slices.Concat(m.Blobs, m.Manifests)
	seen := make(map[Digest]bool)
	for _, d := range all {
		if seen[d.Digest] {
			t.Fatalf("%s twice", d.Digest)
		}
		seen[d.Digest] = true
	}
	if m.Subject != nil {
		all = append(all, *m.Subject)
	}
	for _, d := range all {
		if p, err := ParseDigest(d.Digest.String()); err != nil || p != d.Digest || d.Size < 0 || d.MediaType == "" {
			t.Fatalf("descriptor %+v: %v", d, err)
		}
	}
}
