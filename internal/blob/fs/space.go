package fs

import (
	"fmt"
	"sync"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

// spaceAge is how long a reading of the disk's free space is used.
const spaceAge = time.Second

// space keeps the reserve of free disk. Between two readings it counts what is
// written itself, so that the reserve holds however fast the disk fills.
type space struct {
	sys     system
	dir     string
	reserve int64 // bytes

	mu   sync.Mutex
	read time.Time
	free int64 // bytes: what was free at read, less what was taken since
}

// take says that n bytes are about to be written. It fails with blob.ErrNoSpace,
// and takes nothing, if less than the reserve would be left.
func (s *space) take(n int64) error {
	if s.reserve <= 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.read.IsZero() || now.Sub(s.read) >= spaceAge {
		free, err := s.sys.free(s.dir)
		if err != nil {
			return fmt.Errorf("read free space: %w", err)
		}
		s.read, s.free = now, free
	}
	if s.free-n < s.reserve {
		return fmt.Errorf("%w: %d bytes are free, of which %d are kept", blob.ErrNoSpace, s.free, s.reserve)
	}
	s.free -= n
	return nil
}
