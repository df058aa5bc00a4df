package harness

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"debug/elf"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob is content with its descriptor.
type Blob struct {
	v1.Descriptor
	Bytes []byte
}

// NewBlob returns b with its sha256 descriptor.
func NewBlob(mediaType string, b []byte) Blob {
	return Blob{v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b}
}

// JSON marshals v, which must be possible.
func JSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// Random returns n bytes that don't compress and that nothing else has.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// Image is an image or artifact that lies ready to be pushed.
type Image struct {
	Manifest Blob
	Blobs    []Blob // config and layers; more than the manifest lists is not allowed
}

// NewImage returns an OCI image for Linux on the given architecture with one gzip
// layer for each map of file names to contents. Running it prints what the command
// does.
func NewImage(architecture string, command []string, layers ...map[string][]byte) Image {
	var blobs []Blob
	config := v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: architecture},
		Config:   v1.ImageConfig{Cmd: command},
		RootFS:   v1.RootFS{Type: "layers"},
	}
	for _, files := range layers {
		plain := Tar(files)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		config.History = append(config.History, v1.History{CreatedBy: "test"})
		blobs = append(blobs, NewBlob(v1.MediaTypeImageLayerGzip, Gzip(plain)))
	}
	return Pack(v1.Manifest{}, append([]Blob{NewBlob(v1.MediaTypeImageConfig, JSON(config))}, blobs...)...)
}

// Pack returns an image of the given config and layers. What m has beside them
// stays, as do a media type and a config that it already has.
func Pack(m v1.Manifest, blobs ...Blob) Image {
	m.Versioned = specs.Versioned{SchemaVersion: 2}
	if m.MediaType == "" {
		m.MediaType = v1.MediaTypeImageManifest
	}
	if m.Layers == nil {
		m.Layers = []v1.Descriptor{}
	}
	for i, b := range blobs {
		if i == 0 {
			m.Config = b.Descriptor
		} else {
			m.Layers = append(m.Layers, b.Descriptor)
		}
	}
	return Image{Manifest: NewBlob(m.MediaType, JSON(m)), Blobs: blobs}
}

// NewIndex returns an OCI index of the manifests.
func NewIndex(children ...v1.Descriptor) Blob {
	return NewBlob(v1.MediaTypeImageIndex, JSON(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: children,
	}))
}

// Tar returns an archive of executable files and the directories above them.
func Tar(files map[string][]byte) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	seen := map[string]bool{".": true}
	var addDir func(dir string)
	addDir = func(dir string) {
		if seen[dir] {
			return
		}
		addDir(filepath.Dir(dir))
		seen[dir] = true
		mustWrite(w, &tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		addDir(filepath.Dir(name))
		mustWrite(w, &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(files[name]))}, files[name])
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func mustWrite(w *tar.Writer, h *tar.Header, content []byte) {
	h.ModTime = time.Unix(0, 0)
	if err := w.WriteHeader(h); err != nil {
		panic(err)
	}
	if _, err := w.Write(content); err != nil {
		panic(err)
	}
}

// Gzip compresses b.
func Gzip(b []byte) []byte {
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	w.Write(b)
	w.Close()
	return buf.Bytes()
}

// Layout writes the image and what refers to it as an OCI layout whose index names
// it by tag, and returns the directory.
func (i Image) Layout(t testing.TB, tag string) string {
	t.Helper()
	return WriteLayout(t, tag, i.Manifest, i)
}

// WriteLayout writes an OCI layout with the images and the manifest top, which its
// index names by tag.
func WriteLayout(t testing.TB, tag string, top Blob, images ...Image) string {
	t.Helper()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put := func(b Blob) { t.Helper(); write(filepath.Join(blobs, b.Digest.Encoded()), b.Bytes) }
	for _, image := range images {
		put(image.Manifest)
		for _, b := range image.Blobs {
			put(b)
		}
	}
	put(top)
	desc := top.Descriptor
	desc.Annotations = map[string]string{v1.AnnotationRefName: tag}
	write(filepath.Join(dir, v1.ImageIndexFile), NewIndex(desc).Bytes)
	write(filepath.Join(dir, v1.ImageLayoutFile), JSON(v1.ImageLayout{Version: v1.ImageLayoutVersion}))
	return dir
}

// Busybox returns the machine's statically linked busybox.
func Busybox(t testing.TB) []byte {
	t.Helper()
	path := Need(t, "busybox")
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			Missing(t, "%s is not statically linked; Debian's package busybox-static is", path)
		}
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
