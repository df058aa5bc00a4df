package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/berthregistry/berth/internal/blob"
)

// unfinished is the file that becomes a document.
const unfinished = ".document"

// PutDocument implements blob.Documents.
func (s *Store) PutDocument(_ context.Context, name string, data []byte) error {
	if err := s.putDocument(name, data); err != nil {
		return wrap("write document", name, err)
	}
	return nil
}

func (s *Store) putDocument(name string, data []byte) error {
	if err := blob.CheckDocumentName(name); err != nil {
		return err
	}
	path, err := s.path(name)
	if err != nil {
		return err
	}
	s.documents.Lock()
	defer s.documents.Unlock()
	if err := s.makeRoot(filepath.Dir(path)); err != nil {
		return err
	}
	temp := filepath.Join(s.dir, unfinished)
	// Not the file that a sync may have failed for.
	if err := s.sys.unlink(temp); err != nil && !isMissing(err) {
		return err
	}
	f, err := s.sys.open(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = s.sys.write(f, data)
	if err == nil {
		err = s.sys.sync(f)
	}
	if err := errors.Join(err, s.sys.close(f)); err != nil {
		_ = s.sys.unlink(temp)
		return err
	}
	if err := s.sys.rename(temp, path); err != nil {
		return err
	}
	return s.syncDir(filepath.Dir(path))
}

// Document implements blob.Documents.
func (s *Store) Document(_ context.Context, name string) ([]byte, error) {
	data, err := s.document(name)
	if err != nil {
		return nil, wrap("read document", name, missing(err))
	}
	return data, nil
}

func (s *Store) document(name string) ([]byte, error) {
	if err := blob.CheckDocumentName(name); err != nil {
		return nil, err
	}
	path, err := s.path(name)
	if err != nil {
		return nil, err
	}
	f, err := s.sys.open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := fileSize(f)
	if err != nil {
		return nil, err
	}
	if size > blob.MaxDocument {
		return nil, fmt.Errorf("it has %d bytes, more than any document", size)
	}
	data := make([]byte, size)
	_, err = io.ReadFull(f, data)
	return data, err
}

// Documents implements blob.Documents.
func (s *Store) Documents(ctx context.Context, prefix string) iter.Seq2[blob.Document, error] {
	return func(yield func(blob.Document, error) bool) {
		err := s.walkDocuments(ctx, strings.TrimSuffix(prefix, "/"), func(d blob.Document) bool { return yield(d, nil) })
		if err != nil && !errors.Is(err, errStop) {
			yield(blob.Document{}, wrap("list documents in", s.dir, err))
		}
	}
}

func (s *Store) walkDocuments(ctx context.Context, from string, yield func(blob.Document) bool) error {
	root := "."
	if from != "" {
		if err := blob.CheckDocumentName(from); err != nil {
			return nil // nothing has such a name
		}
		root = from
	}
	err := fs.WalkDir(os.DirFS(s.dir), root, func(name string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && errors.Is(err, fs.ErrNotExist):
			return nil // removed meanwhile
		case err != nil:
			return err
		case name == ".":
			return nil
		case blob.CheckDocumentName(name) != nil:
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !e.Type().IsRegular():
			return nil
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !yield(blob.Document{Name: name, Size: info.Size()}) {
			return errStop
		}
		return nil
	})
	return err
}

// DeleteDocument implements blob.Documents. It removes folders that it leaves empty.
func (s *Store) DeleteDocument(_ context.Context, name string) error {
	if err := s.deleteDocument(name); err != nil {
		return wrap("delete document", name, err)
	}
	return nil
}

func (s *Store) deleteDocument(name string) error {
	if err := blob.CheckDocumentName(name); err != nil {
		return err
	}
	path, err := s.path(name)
	if err != nil {
		return err
	}
	s.documents.Lock() // so that no folder goes in which a document is about to be
	defer s.documents.Unlock()
	if err := s.sys.unlink(path); err != nil && !isMissing(err) {
		return err
	}
	dir := filepath.Dir(path)
	// Synced even if the file was missing, as for an object.
	if err := s.syncDir(dir); err != nil && !isMissing(err) {
		return err
	}
	for ; dir != s.dir; dir = filepath.Dir(dir) {
		if err := s.sys.rmdir(dir); err != nil && !isMissing(err) {
			return nil // it is not empty
		}
	}
	return nil
}
