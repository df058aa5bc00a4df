package backup

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"

	"github.com/berthregistry/berth/internal/blob"
)

// damagedRoot is where it is noted of which blobs a verification has found the objects of the backup damaged: the next set has them copied anew.
const damagedRoot = "damaged/"

// noteDamaged stores digests of blobs.
func noteDamaged(ctx context.Context, target blob.Store, digests []string) error {
	if len(digests) == 0 {
		return nil
	}
	data, err := json.Marshal(digests)
	if err != nil {
		return err
	}
	return target.PutDocument(ctx, damagedRoot+rand.Text()+extension, data)
}

// damaged returns the digests that are noted, and the documents that have them.
func damaged(ctx context.Context, target blob.Store) (digests map[string]bool, names []string, err error) {
	digests = make(map[string]bool)
	for d, err := range target.Documents(ctx, damagedRoot) {
		if err != nil {
			return nil, nil, err
		}
		data, err := target.Document(ctx, d.Name)
		if errors.Is(err, blob.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		var some []string
		if json.Unmarshal(data, &some) == nil { // else the next verification finds them again
			for _, digest := range some {
				digests[digest] = true
			}
		}
		names = append(names, d.Name)
	}
	return digests, names, nil
}
