package s3

import (
	"math/rand/v2"
	"testing"
)

// TestLayout fills the largest object part by part, while checkpoints cut parts short wherever they may.
func TestLayout(t *testing.T) {
	const mark = 64 << 20
	for name, next := range map[string]func(offset int64) int64{
		"no checkpoint":            func(int64) int64 { return maxObject },
		"a checkpoint each 64 MiB": func(offset int64) int64 { return (offset/mark + 1) * mark },
		"a little later":           func(offset int64) int64 { return (offset/(mark+123_456) + 1) * (mark + 123_456) },
		"each 5 MiB":               func(offset int64) int64 { return offset + minPart },
		"anywhere":                 func(offset int64) int64 { return offset + rand.Int64N(40<<20) + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			var l layout
			used, cuts, memory := 0, 0, int64(0)
			for offset := int64(0); offset < maxObject; used++ {
				size := l.size(used, offset)
				if size < minPart || size > 5<<30 {
					t.Fatalf("part %d at %d has %d bytes", used+1, offset, size)
				}
				if inMemory(size) {
					memory = offset + size
				}
				n := size
				// The marks inside of this part: the first that may end it does.
				for at := next(offset); at < offset+size; at = next(at) {
					if l.mayCut(used, at-offset) {
						n = at - offset
						cuts++
						break
					}
				}
				if n < minPart {
					t.Fatalf("part %d is cut to %d bytes", used+1, n)
				}
				offset += n
			}
			if used > maxParts {
				t.Errorf("an object of %d bytes takes %d parts", int64(maxObject), used)
			}
			if memory < 30<<30 {
				t.Errorf("only %d bytes are sent from memory", memory)
			}
			t.Logf("%d parts, %d cut short, from memory up to %d GiB", used, cuts, memory>>30)
		})
	}
}

// TestLayoutFrom looks at each number of parts: whatever offset it was reached at, the rest fits.
func TestLayoutFrom(t *testing.T) {
	var l layout
	for range 2000 {
		used := rand.IntN(memoryParts)
		offset := int64(used) * minPart // the least that so many parts hold
		if rand.IntN(2) == 0 {
			offset += rand.Int64N(int64(used)*(largestHeld-minPart) + 1)
		}
		for offset < maxObject {
			offset += l.size(used, offset)
			used++
		}
		if used > maxParts {
			t.Fatalf("the rest takes %d parts", used)
		}
	}
}

func TestUniform(t *testing.T) {
	l := layout{uniform: 64 << 20}
	for used := range maxParts {
		if l.size(used, int64(used)*l.uniform) != l.uniform || l.mayCut(used, l.uniform-1) {
			t.Fatalf("part %d is another", used+1)
		}
	}
}
