//go:build linux

// Package content makes what the benchmark pushes and pulls, and brings it to servers.
//
// Everything is made from the same seed, so that all servers, and all runs, get
// the same bytes by the same requests.
package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/berthregistry/berth/bench/load"
)

// Media types of what is pushed.
const (
	ManifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar"
)

// Blob is a config or a layer.
type Blob struct {
	Digest string
	Body   load.Body
}

// Image is a manifest and its blobs, the config first.
type Image struct {
	Blobs    []Blob
	Manifest []byte
}

// Maker makes blobs out of one block of random bytes.
type Maker struct {
	block  *load.Fill
	random []byte
	// framed is block with the frames of the chunked transfer coding around every
	// chunkSize bytes.
	framed *load.Fill
}

const (
	blockSize = 16 << 20
	// chunkSize is how much Docker's client sends at a time, and divides blockSize.
	chunkSize = 32 << 10
	chunkHead = "8000\r\n"
)

// NewMaker returns a Maker that needs to be closed.
func NewMaker() (*Maker, error) {
	random := load.Random(blockSize, 1)
	block, err := load.NewFill(random)
	if err != nil {
		return nil, err
	}
	var framed bytes.Buffer
	for i := 0; i < len(random); i += chunkSize {
		framed.WriteString(chunkHead)
		framed.Write(random[i : i+chunkSize])
		framed.WriteString("\r\n")
	}
	f, err := load.NewFill(framed.Bytes())
	if err != nil {
		block.Close()
		return nil, err
	}
	return &Maker{block: block, random: random, framed: f}, nil
}

// Close frees the memory of all bodies that m has made.
func (m *Maker) Close() error {
	m.framed.Close()
	return m.block.Close()
}

// Layer returns a blob of the given size in bytes, which must exceed the length of
// name; a different name gives a different blob.
func (m *Maker) Layer(name string, size int64) Blob {
	return newBlob(load.Body{Prefix: []byte(name + "\n"), Fill: m.block, N: size - int64(len(name)) - 1})
}

// Config returns an image's configuration: JSON of the given size in bytes, at least 100.
func (m *Maker) Config(name string, size int) Blob {
	doc := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"author":"` + name + ` `)
	end := `"}`
	for len(doc) < size-len(end) {
		doc = append(doc, 'x')
	}
	return newBlob(load.Body{Prefix: append(doc, end...)})
}

func newBlob(body load.Body) Blob {
	h := sha256.New()
	if _, err := body.WriteTo(h); err != nil {
		panic(err) // a hash never fails
	}
	return Blob{Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Body: body}
}

// Streamed returns the body of b in the chunked transfer coding, framed as Docker's client does.
func (m *Maker) Streamed(b Blob) load.Body {
	whole := b.Body.N / chunkSize
	tail := m.random[whole*chunkSize%blockSize:][:b.Body.N%chunkSize]
	out := load.Body{
		Prefix: chunk(nil, b.Body.Prefix),
		Fill:   m.framed,
		N:      whole * int64(len(chunkHead)+chunkSize+len("\r\n")),
	}
	if len(tail) > 0 {
		out.Suffix = chunk(nil, tail)
	}
	out.Suffix = append(out.Suffix, "0\r\n\r\n"...)
	return out
}

func chunk(out, data []byte) []byte {
	out = fmt.Appendf(out, "%x\r\n", len(data))
	out = append(out, data...)
	return append(out, "\r\n"...)
}

// Image returns an image with one config and layers of the given sizes in bytes.
func (m *Maker) Image(name string, config int, layers ...int64) Image {
	blobs := []Blob{m.Config(name, config)}
	for i, size := range layers {
		blobs = append(blobs, m.Layer(fmt.Sprintf("%s layer %d", name, i), size))
	}
	return Image{Blobs: blobs, Manifest: Manifest(blobs, "")}
}

// Manifest returns the manifest of an image whose first blob is the config. Another
// comment makes another manifest.
func Manifest(blobs []Blob, comment string) []byte {
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int64  `json:"size"`
	}
	doc := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{SchemaVersion: 2, MediaType: ManifestType}
	doc.Config = descriptor{configType, blobs[0].Digest, blobs[0].Body.Len()}
	for _, b := range blobs[1:] {
		doc.Layers = append(doc.Layers, descriptor{layerType, b.Digest, b.Body.Len()})
	}
	if comment != "" {
		doc.Annotations = map[string]string{"org.opencontainers.image.description": comment}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return out
}
