package s3

// What S3 allows: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
const (
	maxParts  = 10_000
	maxObject = 5 << 40 // bytes
	minPart   = 5 << 20 // bytes of every part but the last
)

// firstPart is the size of an upload's first part. What is smaller needs no multipart upload.
const firstPart = 8 << 20

// Parts in memory, until so many are used that the numbers left would not do for the largest object.
const (
	smallParts  = 512  // of 8 MiB each: 4 GiB
	mediumParts = 1280 // 16 MiB: 16 GiB
	memoryParts = 8000 // 32 MiB: 226 GiB, less where checkpoints cut parts short
	largestHeld = 32 << 20
)

// layout says how an upload is cut into parts.
type layout struct {
	// uniform, if not 0, is the size in bytes of every part but the last.
	uniform int64
}

// size returns the size in bytes of the part that begins at offset, after used parts. Whatever the parts before
// were, the largest object gets by with 10,000 of them: from some number on, each takes at least
// its share of what could still come, so that the share of those after it never grows.
func (l layout) size(used int, offset int64) int64 {
	switch {
	case l.uniform > 0:
		return l.uniform
	case used < smallParts:
		return firstPart
	case used < mediumParts:
		return 16 << 20
	case used < memoryParts:
		return largestHeld
	}
	left := int64(max(maxParts-used, 1))
	share := (maxObject - offset + left - 1) / left
	const unit = 1 << 20
	return max((share+unit-1)/unit*unit, largestHeld)
}

// mayCut tells whether a part may end at n bytes, less than its size, though others will follow.
func (l layout) mayCut(used int, n int64) bool {
	return l.uniform == 0 && n >= minPart && used < memoryParts
}

// inMemory tells whether a part of this size is held in memory, not in a temporary file.
func inMemory(size int64) bool { return size <= largestHeld }
