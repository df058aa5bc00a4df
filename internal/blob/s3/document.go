package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/berthregistry/berth/internal/blob"
)

// documentName returns the name of a document's object.
func (s *Store) documentName(name string) (string, error) {
	if err := blob.CheckDocumentName(name); err != nil {
		return "", err
	}
	return s.object(name)
}

// PutDocument implements blob.Documents, by one request.
func (s *Store) PutDocument(ctx context.Context, name string, data []byte) error {
	object, err := s.documentName(name)
	if err == nil {
		_, err = s.put(ctx, object, section{to: int64(len(data)), chunks: chunksOf(data)})
	}
	if err != nil {
		return fmt.Errorf("write document %s: %w", name, err)
	}
	return nil
}

// chunksOf returns bytes in the form in which a buffer has them.
func chunksOf(data []byte) (chunks [][]byte) {
	for size := smallChunk; len(data) > 0; size = largeChunk {
		n := min(size, len(data))
		chunks = append(chunks, data[:n])
		data = data[n:]
	}
	return chunks
}

// Document implements blob.Documents.
func (s *Store) Document(ctx context.Context, name string) ([]byte, error) {
	data, err := s.document(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read document %s: %w", name, err)
	}
	return data, nil
}

func (s *Store) document(ctx context.Context, name string) ([]byte, error) {
	object, err := s.documentName(name)
	if err != nil {
		return nil, err
	}
	r, err := s.get(ctx, name, object, 0, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() > blob.MaxDocument {
		return nil, fmt.Errorf("it has %d bytes, more than any document", r.Size())
	}
	data := make([]byte, r.Size())
	_, err = io.ReadFull(r, data)
	return data, err
}

// Documents implements blob.Documents.
func (s *Store) Documents(ctx context.Context, prefix string) iter.Seq2[blob.Document, error] {
	return func(yield func(blob.Document, error) bool) {
		// What begins with a digit is an object, and comes first.
		after := ""
		if prefix == "" {
			after = s.opts.Prefix + ":"
		}
		for e, err := range s.objects(ctx, s.opts.Prefix+prefix, after) {
			if err != nil {
				yield(blob.Document{}, fmt.Errorf("list documents: %w", err))
				return
			}
			name := e.name[len(s.opts.Prefix):]
			if blob.CheckDocumentName(name) != nil {
				continue
			}
			if !yield(blob.Document{Name: name, Size: e.size}, nil) {
				return
			}
		}
	}
}

// DeleteDocument implements blob.Documents.
func (s *Store) DeleteDocument(ctx context.Context, name string) error {
	object, err := s.documentName(name)
	if err == nil {
		err = s.remove(ctx, object)
	}
	if err != nil && !errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("delete document %s: %w", name, err)
	}
	return nil
}
