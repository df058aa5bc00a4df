package s3

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"
)

// Checksums. Each part and object is sent with its CRC-32C, which costs next to nothing, and the store's answer
// must repeat it. A store that does not repeat it must give the MD5 sum as the ETag, as most do; else the bytes
// are sent once more with Content-MD5, which every store verifies. What refuses CRC-32C gets Content-MD5
// from the start. The payload is not hashed for the signature: that would say the same at twenty times the cost.
const (
	headerCRC       = "X-Amz-Checksum-Crc32c"
	headerAlgorithm = "X-Amz-Checksum-Algorithm"
)

// sums are the checksums of a request, in base64; empty ones are not sent.
type sums struct{ crc, md5 string }

// receipt is what a store answers for bytes that it took.
type receipt struct{ etag, crc string }

// send makes a request that carries the bytes of a section. withCRC says whether they may go with a CRC-32C.
func (s *Store) send(ctx context.Context, op, object string, b section, withCRC bool,
	request func(ctx context.Context, r io.Reader, sums sums) (receipt, error),
) (sent, error) {
	crc, err := b.crc()
	if err != nil {
		return sent{}, fmt.Errorf("%s %s: %w", op, object, err)
	}
	result := sent{size: b.size(), crc: crc}
	needMD5 := false
	err = s.do(ctx, op, object, func(ctx context.Context, progress func(int)) error {
		for {
			var with sums
			if withCRC {
				with.crc = encodeCRC(crc)
			}
			if needMD5 || s.noCRC.Load() {
				sum, err := b.md5()
				if err != nil {
					return err
				}
				with.md5 = base64.StdEncoding.EncodeToString(sum)
			}
			r := newBody(b, progress)
			got, err := request(ctx, r, with)
			r.close()
			if err != nil {
				if with.crc != "" && refusesCRC(err) {
					s.noCRC.Store(true)
					withCRC = false
					continue
				}
				return err
			}
			result.etag = got.etag
			switch {
			case got.etag == "":
				return fmt.Errorf("%w: no ETag was answered", errDamaged)
			case got.crc != "" && got.crc != encodeCRC(crc):
				return fmt.Errorf("%w: CRC-32C %s, not %s", errDamaged, got.crc, encodeCRC(crc))
			case got.crc != "" || with.md5 != "":
				return nil
			}
			sum, err := b.md5()
			if err != nil {
				return err
			}
			if got.etag == hex.EncodeToString(sum) {
				return nil
			}
			needMD5 = true // nothing shows that the store has verified anything
		}
	})
	return result, err
}

func encodeCRC(crc uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))
}

// options are those of each object.
func (s *Store) options(headers map[string]string) minio.PutObjectOptions {
	return minio.PutObjectOptions{
		StorageClass:         s.opts.StorageClass,
		ServerSideEncryption: s.sse,
		DisableContentSha256: true,
		UserMetadata:         headers,
	}
}

// put stores an object whole.
func (s *Store) put(ctx context.Context, name string, b section) (sent, error) {
	return s.send(ctx, "put object", name, b, !s.noCRC.Load(), func(ctx context.Context, r io.Reader, with sums) (receipt, error) {
		headers := map[string]string{}
		if with.crc != "" {
			headers[headerCRC] = with.crc
		}
		info, err := s.client.PutObject(ctx, s.bucket, name, r, b.size(), with.md5, "", s.options(headers))
		return receipt{info.ETag, info.ChecksumCRC32C}, err
	})
}

// multipart is a multipart upload.
type multipart struct {
	id  string
	crc bool // it was begun with CRC-32C
}

// begin starts a multipart upload. strays tells that there may be another one of the same name, because an
// answer was lost.
func (s *Store) begin(ctx context.Context, name string) (m multipart, strays bool, err error) {
	m.crc = !s.noCRC.Load()
	tries := 0
	err = s.do(ctx, "begin upload", name, func(ctx context.Context, _ func(int)) error {
		// Who gives up waits for the answer nevertheless: a request that was cancelled could be carried out after the upload was deleted.
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), s.opts.Stall, errStalled)
		defer cancel()
		for {
			tries++
			headers := map[string]string{}
			if m.crc {
				headers[headerAlgorithm] = "CRC32C"
			}
			m.id, err = s.client.NewMultipartUpload(ctx, s.bucket, name, s.options(headers))
			if err != nil && m.crc && refusesCRC(err) {
				s.noCRC.Store(true)
				m.crc = false
				continue
			}
			switch {
			case err == nil && m.id == "":
				return fmt.Errorf("%w: no upload id was answered", errDamaged)
			case err != nil && ctx.Err() != nil:
				return context.Cause(ctx)
			}
			return err
		}
	})
	return m, tries > 1, err
}

// putPart sends one part, instead of any that has its number.
func (s *Store) putPart(ctx context.Context, name string, m multipart, number int, b section) (sent, error) {
	return s.send(ctx, "put part", name, b, m.crc, func(ctx context.Context, r io.Reader, with sums) (receipt, error) {
		header := http.Header{}
		if with.crc != "" {
			header.Set(headerCRC, with.crc)
		}
		p, err := s.client.PutObjectPart(ctx, s.bucket, name, m.id, number, r, b.size(), minio.PutObjectPartOptions{
			Md5Base64: with.md5, CustomHeader: header, DisableContentSha256: true,
		})
		return receipt{p.ETag, p.ChecksumCRC32C}, err
	})
}

// complete makes an object of the parts. When the answer is lost, it finds out whether the object is there.
func (s *Store) complete(ctx context.Context, name string, m multipart, parts []sent) error {
	list := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		list[i] = minio.CompletePart{PartNumber: i + 1, ETag: p.etag}
		if m.crc {
			list[i].ChecksumCRC32C = encodeCRC(p.crc)
		}
	}
	whole := wholeOf(parts)
	unknown := false // whether a request before was carried out
	err := s.doFor(ctx, slowCalls*s.opts.Stall, "complete upload", name, func(ctx context.Context, _ func(int)) error {
		info, err := s.client.CompleteMultipartUpload(ctx, s.bucket, name, m.id, list, minio.PutObjectOptions{})
		switch {
		case err == nil && m.crc && whole.isCRC(info.ChecksumCRC32C):
			return nil
		case err == nil:
			// A second opinion, for a store that says nothing of what it made.
			unknown = true
			return s.verify(ctx, name, whole)
		case isCode(err, "NoSuchUpload"): // by a request before, or by another node at this moment
			if s.verify(ctx, name, whole) == nil {
				return nil
			}
		case classify(err) == passing:
			unknown = true
		}
		return err
	})
	if err != nil && unknown && ctx.Err() == nil && attempt(ctx, s.opts.Stall, func(ctx context.Context, _ func(int)) error {
		return s.verify(ctx, name, whole)
	}) == nil {
		return nil
	}
	return err
}

// whole is what is known of an object that is made of parts.
type whole struct {
	size      int64
	etag, crc string // as S3 computes them; etag is "" if parts have other kinds of ETags
}

func wholeOf(parts []sent) whole {
	var w whole
	sum, crc := md5.New(), crc32.New(crc32.MakeTable(crc32.Castagnoli))
	plain := true
	for _, p := range parts {
		w.size += p.size
		raw, ok := md5ETag(p.etag)
		plain = plain && ok
		sum.Write(raw)
		crc.Write(binary.BigEndian.AppendUint32(nil, p.crc))
	}
	if plain {
		w.etag = fmt.Sprintf("%x-%d", sum.Sum(nil), len(parts))
	}
	w.crc = fmt.Sprintf("%s-%d", encodeCRC(crc.Sum32()), len(parts))
	return w
}

// isCRC tells whether a store's checksum is the one of the parts' checksums, which it may give without their count.
func (w whole) isCRC(got string) bool {
	sum, _, _ := strings.Cut(w.crc, "-")
	return got == w.crc || got == sum
}

// verify fails unless the object is the one that the parts make.
func (s *Store) verify(ctx context.Context, name string, w whole) error {
	info, err := s.client.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{Checksum: !s.noCRC.Load()})
	if err != nil {
		return err
	}
	if info.Size != w.size {
		return fmt.Errorf("%w: it has %d bytes, not %d", errOther, info.Size, w.size)
	}
	_, _, composite := strings.Cut(info.ChecksumCRC32C, "-")
	if composite && !w.isCRC(info.ChecksumCRC32C) {
		return fmt.Errorf("%w: its checksum is %s, not %s", errOther, info.ChecksumCRC32C, w.crc)
	}
	if sum, n, ok := strings.Cut(info.ETag, "-"); !composite && ok && w.etag != "" && len(sum) == 32 && n != "" && info.ETag != w.etag {
		return fmt.Errorf("%w: its ETag is %s, not %s", errOther, info.ETag, w.etag)
	}
	return nil
}
