package world

import (
	"context"
	"errors"
	"sync"

	"github.com/berthregistry/berth/internal/blob"
)

// Faulty is a store of whose calls one fails. It may be used concurrently.
type Faulty struct {
	blob.Store
	Left  int  // calls until one fails, that one counted
	After bool // that one does its work before

	mu sync.Mutex
}

// ErrFault is how it fails.
var ErrFault = errors.New("fault")

func (f *Faulty) run(call func() error) error {
	f.mu.Lock()
	f.Left--
	now := f.Left == 0
	f.mu.Unlock()
	if now && !f.After {
		return ErrFault
	}
	if err := call(); err != nil {
		return err
	}
	if now {
		return ErrFault
	}
	return nil
}

func (f *Faulty) PutDocument(ctx context.Context, name string, data []byte) error {
	return f.run(func() error { return f.Store.PutDocument(ctx, name, data) })
}

func (f *Faulty) DeleteDocument(ctx context.Context, name string) error {
	return f.run(func() error { return f.Store.DeleteDocument(ctx, name) })
}

func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.run(func() error { return f.Store.Delete(ctx, key) })
}

func (f *Faulty) Create(ctx context.Context) (w blob.Writer, err error) {
	err = f.run(func() error {
		w, err = f.Store.Create(ctx)
		return err
	})
	return w, err
}

func (f *Faulty) Document(ctx context.Context, name string) (data []byte, err error) {
	err = f.run(func() error {
		data, err = f.Store.Document(ctx, name)
		return err
	})
	return data, err
}

func (f *Faulty) Stat(ctx context.Context, key string) (n int64, err error) {
	err = f.run(func() error {
		n, err = f.Store.Stat(ctx, key)
		return err
	})
	return n, err
}
