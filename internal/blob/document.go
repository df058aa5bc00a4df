package blob

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"strings"
)

// MaxDocument is how many bytes a document may have.
const MaxDocument = 1 << 30

// Documents are small named files that a store keeps beside its objects, such as the segments of the journal. A name is a
// clean relative path that does not begin with a digit, so that it is never that of an object, nor with a dot. List never yields a
// document, so the collector takes none for a leftover. All methods may be called concurrently.
type Documents interface {
	// PutDocument stores a document, or replaces it. When it returns nil, the document is whole and durable; after an error it is as
	// before or as it was to be, never in between. Space is not reserved for it: it may use what Options keep free.
	PutDocument(ctx context.Context, name string, data []byte) error

	// Document returns a document, or ErrNotFound.
	Document(ctx context.Context, name string) ([]byte, error)

	// Documents yields the documents whose names begin with prefix, which is empty or ends with a slash, in any order. An
	// error ends the sequence. Documents that come or go meanwhile may be missing or not.
	Documents(ctx context.Context, prefix string) iter.Seq2[Document, error]

	// DeleteDocument removes a document durably. A missing one is no error.
	DeleteDocument(ctx context.Context, name string) error
}

// Document is an entry of a listing.
type Document struct {
	Name string
	Size int64 // bytes
}

// CheckDocumentName returns ErrNotFound if no document can have the name.
func CheckDocumentName(name string) error {
	if !fs.ValidPath(name) || strings.ContainsAny(name, "\x00\\:") || name[0] == '.' || name[0] >= '0' && name[0] <= '9' || len(name) > 500 {
		return fmt.Errorf("%w: %q is no name of a document", ErrNotFound, name)
	}
	return nil
}
