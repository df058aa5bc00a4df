package s3

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// state is what blob.State.Data tells of an upload, so that another node goes on without
// asking the bucket what is there.
//
// An upload that has no part yet is one object under its final key, which state.Size bytes at least
// belong to. Later, its bytes are those of the parts, then those of the tail: what no part could end with, because only
// an upload's last part may be small.
type state struct {
	multipart bool
	etag      string // of the object, if it is not multipart
	id        string // of the multipart upload
	crc       bool   // it was begun with CRC-32C
	parts     []sent
	tail      tail
	stale     []string // objects that the state before this one needs and this one does not
}

// tail is the bytes after the last part.
type tail struct {
	segments []segment // in order, each an object
	inline   []byte    // what follows them
	part     *sent     // all of it, if it is a part as well, of use when nothing more comes
}

// segment is some bytes of a tail.
type segment struct {
	name string // see segmentName
	size int64  // bytes
}

// sent is what the store has answered for a part or an object.
type sent struct {
	size int64 // bytes
	etag string
	crc  uint32
}

func (t tail) size() int64 {
	return t.kept() + int64(len(t.inline))
}

// kept returns how many bytes are in segments.
func (t tail) kept() int64 {
	var n int64
	for _, s := range t.segments {
		n += s.size
	}
	return n
}

func (s *state) size() int64 {
	n := s.tail.size()
	for _, p := range s.parts {
		n += p.size
	}
	return n
}

const (
	stateVersion = 1
	kindObject   = 'o'
	kindParts    = 'p'

	etagMD5   = 1 // 16 bytes, which have hexadecimal form
	etagOther = 0

	maxName     = 4 << 10 // bytes of an upload's id
	maxSegments = 100_000
	maxInline   = 64 << 10 // bytes of a tail that are kept in the state
)

// encode returns the state in at most 25 bytes for each part with the usual kind of ETag.
func (s *state) encode() []byte {
	if !s.multipart {
		return appendString([]byte{stateVersion, kindObject}, s.etag)
	}
	b := make([]byte, 0, 64+len(s.id)+len(s.tail.inline)+26*len(s.parts))
	b = append(b, stateVersion, kindParts)
	b = appendString(b, s.id)
	b = append(b, boolByte(s.crc))
	b = binary.AppendUvarint(b, uint64(len(s.parts)))
	for _, p := range s.parts {
		b = p.append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(s.tail.segments)))
	for _, g := range s.tail.segments {
		b = appendString(b, g.name)
		b = binary.AppendUvarint(b, uint64(g.size))
	}
	b = appendString(b, string(s.tail.inline))
	b = append(b, boolByte(s.tail.part != nil))
	if s.tail.part != nil {
		b = s.tail.part.append(b)
	}
	b = binary.AppendUvarint(b, uint64(len(s.stale)))
	for _, name := range s.stale {
		b = appendString(b, name)
	}
	return b
}

func (p *sent) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.size))
	b = binary.BigEndian.AppendUint32(b, p.crc)
	if raw, ok := md5ETag(p.etag); ok {
		return append(append(b, etagMD5), raw...)
	}
	return appendString(append(b, etagOther), p.etag)
}

// md5ETag returns the 16 bytes of an ETag that has the form of an MD5 sum.
func md5ETag(etag string) ([]byte, bool) {
	raw, err := hex.DecodeString(etag)
	return raw, err == nil && len(raw) == 16 && hex.EncodeToString(raw) == etag
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

var errState = errors.New("the state of the upload is damaged, or of a newer version")

// decodeState reads what encode wrote. Without data it is the state of an object without bytes.
func decodeState(data []byte) (*state, error) {
	if len(data) == 0 {
		return &state{}, nil
	}
	d := decoder{rest: data}
	if v := d.byte(); v != stateVersion {
		return nil, fmt.Errorf("%w: version %d", errState, v)
	}
	s := new(state)
	switch d.byte() {
	case kindObject:
		s.etag = d.string(maxName)
	case kindParts:
		s.multipart = true
		s.id = d.string(maxName)
		s.crc = d.bool()
		for range d.count(maxParts) {
			s.parts = append(s.parts, d.sent())
		}
		for range d.count(maxSegments) {
			s.tail.segments = append(s.tail.segments, segment{name: d.name(), size: d.size()})
		}
		if p := d.string(maxInline); p != "" {
			s.tail.inline = []byte(p)
		}
		if d.bool() {
			p := d.sent()
			s.tail.part = &p
		}
		for range d.count(maxSegments) {
			s.stale = append(s.stale, d.name())
		}
		if s.id == "" || len(s.parts) == 0 || s.size() > maxObject || s.tail.part != nil && s.tail.part.size != s.tail.size() {
			d.bad = true
		}
	default:
		d.bad = true
	}
	if d.bad || len(d.rest) > 0 {
		return nil, errState
	}
	return s, nil
}

// decoder reads a state. After something that can't be it is bad, and gives zero values.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	p := d.rest[:n]
	d.rest = d.rest[n:]
	return p
}

func (d *decoder) byte() byte {
	if p := d.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (d *decoder) bool() bool {
	v := d.byte()
	d.bad = d.bad || v > 1
	return v == 1
}

func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > limit || n > 1 && d.rest[n-1] == 0 { // one form for each number
		d.bad = true
	}
	if d.bad {
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// count returns a number of things, each of which takes at least one byte.
func (d *decoder) count(limit uint64) uint64 {
	return d.uvarint(min(limit, uint64(len(d.rest))))
}

func (d *decoder) size() int64 { return int64(d.uvarint(maxObject)) }

func (d *decoder) string(limit uint64) string { return string(d.take(d.uvarint(limit))) }

// name returns the name of a segment.
func (d *decoder) name() string {
	name := d.string(maxName)
	d.bad = d.bad || !isSegment(name)
	return name
}

func (d *decoder) sent() (p sent) {
	p.size = d.size()
	if raw := d.take(4); raw != nil {
		p.crc = binary.BigEndian.Uint32(raw)
	}
	if d.bool() {
		p.etag = hex.EncodeToString(d.take(16))
		return p
	}
	p.etag = d.string(maxName)
	if _, ok := md5ETag(p.etag); ok {
		d.bad = true // one form for each ETag
	}
	return p
}
