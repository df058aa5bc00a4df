//go:build linux

package content

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/berthregistry/berth/bench/load"
)

// clients is how many push at the same time while a server is filled.
const clients = 16

// Push brings p to a registry.
func (p *Part) Push(ctx context.Context, addr netip.AddrPort) error {
	err := load.Each(ctx, addr, clients, len(p.Blobs), func(c *load.Client, i int) error {
		return PushBlob(c, p.Blobs[i].Repository, p.Blobs[i].Blob)
	})
	if err == nil {
		err = load.Each(ctx, addr, clients, len(p.Mounts), func(c *load.Client, i int) error {
			return mountOrPush(c, p.Mounts[i].Repository, baseRepository, p.Mounts[i].Blob)
		})
	}
	if err == nil {
		err = load.Each(ctx, addr, clients, len(p.Manifests), func(c *load.Client, i int) error {
			return PushManifest(c, p.Manifests[i])
		})
	}
	if err != nil {
		return fmt.Errorf("fill with %s: %w", p.Name, err)
	}
	return nil
}

// Write puts p into a folder as files whose paths are those of the protocol.
func (p *Part) Write(dir string) error {
	for _, b := range p.Blobs {
		if err := writeFile(filepath.Join(dir, BlobPath(b.Repository, b.Digest)), b.Body); err != nil {
			return err
		}
	}
	for _, b := range p.Mounts {
		if err := writeFile(filepath.Join(dir, BlobPath(b.Repository, b.Digest)), b.Body); err != nil {
			return err
		}
	}
	for _, m := range p.Manifests {
		if err := writeFile(filepath.Join(dir, ManifestPath(m.Repository, m.Tag)), load.Body{Prefix: m.Body}); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(name string, body load.Body) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	w := bufio.NewWriterSize(f, 256<<10)
	if _, err := body.WriteTo(w); err != nil {
		return err
	}
	return w.Flush()
}
