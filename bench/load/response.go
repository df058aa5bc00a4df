//go:build linux

package load

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// reader takes the bytes of one answer as they arrive.
type reader struct {
	resp  Response
	sink  func([]byte)
	state state
	// partial holds what came of a line, or of the head, that is not complete yet.
	partial []byte
	rest    int64 // bytes of body, or of the current chunk, that are to come
	noBody  bool  // the answer to a HEAD
}

type state int

const (
	inHead state = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	done
)

var (
	endOfHead      = []byte("\r\n\r\n")
	errSurplus     = errors.New("bytes after the end of the answer")
	errHeadTooLong = errors.New("the head of the answer is longer than 64 KiB")
	errNoLength    = errors.New("the answer has neither Content-Length nor chunks")
)

// reset prepares for the next answer.
func (r *reader) reset(noBody bool, sink func([]byte)) {
	r.resp = Response{head: r.resp.head[:0], start: r.resp.start[:0]}
	r.sink, r.noBody, r.state, r.rest = sink, noBody, inHead, 0
	r.partial = r.partial[:0]
}

// take consumes p, which follows what was taken before. The answer is complete when
// r.state is done.
func (r *reader) take(p []byte) error {
	for len(p) > 0 {
		var err error
		switch r.state {
		case inHead:
			p, err = r.takeHead(p)
		case inBody, inChunk:
			n := min(int64(len(p)), r.rest)
			r.body(p[:n])
			p = p[n:]
			r.rest -= n
			if r.rest == 0 && r.state == inBody {
				r.state = done
			} else if r.rest == 0 {
				r.state = inChunkEnd
			}
		case done:
			return errSurplus
		default:
			p, err = r.takeLine(p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) takeHead(p []byte) (rest []byte, err error) {
	if len(r.partial) > 0 {
		r.partial = append(r.partial, p...)
		p = r.partial
	}
	end := bytes.Index(p, endOfHead)
	if end < 0 {
		if len(r.partial) == 0 {
			r.partial = append(r.partial, p...)
		}
		if len(r.partial) > 64<<10 {
			return nil, errHeadTooLong
		}
		return nil, nil
	}
	head := p[:end+2]
	if len(head) < len("HTTP/1.1 200") || head[9] < '1' || head[9] > '9' {
		return nil, fmt.Errorf("not an HTTP answer: %.40q", head)
	}
	r.resp.Status = int(head[9]-'0')*100 + int(head[10]-'0')*10 + int(head[11]-'0')
	r.resp.head = append(r.resp.head, head...)
	// p may lie in r.partial, which lines of chunks will be written to.
	rest = p[end+len(endOfHead):]
	if len(r.partial) > 0 {
		rest = bytes.Clone(rest)
		r.partial = r.partial[:0]
	}
	if r.resp.Status == 100 {
		r.resp.head = r.resp.head[:0]
		return rest, nil // the real answer follows
	}
	return rest, r.framing()
}

// framing decides how long the body is (RFC 9112 section 6.3).
func (r *reader) framing() error {
	if s := r.resp.Status; r.noBody || s == 204 || s == 304 {
		r.state = done
		return nil
	}
	if v := header(r.resp.head, "Content-Length"); v != nil {
		n, err := strconv.ParseInt(string(v), 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("Content-Length %q is not a length", v)
		}
		r.rest, r.state = n, inBody
		if n == 0 {
			r.state = done
		}
		return nil
	}
	if string(header(r.resp.head, "Transfer-Encoding")) == "chunked" {
		r.state = inChunkSize
		return nil
	}
	return errNoLength
}

// takeLine consumes up to the end of one line of the chunked coding.
func (r *reader) takeLine(p []byte) (rest []byte, err error) {
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		r.partial = append(r.partial, p...)
		return nil, nil
	}
	line := p[:end]
	if len(r.partial) > 0 {
		line = append(r.partial, line...)
		r.partial = line[:0]
	}
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch r.state {
	case inChunkSize:
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseInt(string(size), 16, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("chunk size %q is not a number", size)
		}
		r.rest, r.state = n, inChunk
		if n == 0 {
			r.state = inTrailer
		}
	case inChunkEnd:
		if len(line) > 0 {
			return nil, fmt.Errorf("a chunk is followed by %.40q instead of an empty line", line)
		}
		r.state = inChunkSize
	case inTrailer:
		if len(line) == 0 {
			r.state = done
		}
	}
	return p[end+1:], nil
}

func (r *reader) body(p []byte) {
	r.resp.Length += int64(len(p))
	if r.sink != nil {
		r.sink(p)
	}
	if r.resp.Status >= 300 && len(r.resp.start) < 256 {
		r.resp.start = append(r.resp.start, p[:min(len(p), 256)]...)
	}
}
