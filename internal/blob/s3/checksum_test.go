package s3

import (
	"net/http"
	"sync"
	"testing"

	"github.com/berthregistry/berth/test/service"
)

// TestChecksums has the store not know CRC-32C, or answer wrongly, or the way damage the bytes.
func TestChecksums(t *testing.T) {
	silent := func(h http.Header) { h.Del("X-Amz-Checksum-Crc32c"); h.Del("X-Amz-Checksum-Type") }
	plain, odd := service.S3(t), service.NewS3(t, "--data-integrity-etag").Bucket(t)
	crcs := func(p *proxy, op string) (crc, md5 int) {
		for _, r := range p.all(op) {
			if r.header.Get(headerCRC) != "" {
				crc++
			}
			if r.header.Get("Content-Md5") != "" {
				md5++
			}
			if sum := r.header.Get("X-Amz-Content-Sha256"); sum != "UNSIGNED-PAYLOAD" {
				t.Errorf("%s is sent with X-Amz-Content-Sha256: %s", op, sum)
			}
		}
		return crc, md5
	}
	want := content(1, 12<<20)
	for name, test := range map[string]struct {
		bucket        *service.Bucket
		fault         func(op string, n int) fault
		crc, md5, all int // requests to put a part with each, and in all
	}{
		"answered":                   {plain, nil, 2, 0, 2},
		"the ETag too":               {odd, nil, 2, 0, 2},
		"not answered":               {plain, func(string, int) fault { return fault{header: silent, unsigned: true} }, 2, 0, 2},
		"not answered, another ETag": {odd, func(string, int) fault { return fault{header: silent, unsigned: true} }, 4, 2, 4},
		"refused": {plain, func(op string, n int) fault {
			if op == "begin upload" && n == 1 {
				return fault{status: 501, code: "NotImplemented"}
			}
			return fault{}
		}, 0, 2, 2},
		"damaged": {plain, func(op string, n int) fault { return fault{damage: op == "put part" && n == 1} }, 3, 0, 3},
		"damaged, with MD5": {plain, func(op string, n int) fault {
			if op == "begin upload" && n == 1 {
				return fault{status: 501, code: "NotImplemented"}
			}
			return fault{damage: op == "put part" && n == 1}
		}, 0, 3, 3},
		"wrong answer": {plain, func(op string, n int) fault {
			if op == "put part" && n == 1 {
				return fault{header: func(h http.Header) { h.Set(headerCRC, "AAAAAA==") }, unsigned: true}
			}
			return fault{}
		}, 3, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, test.bucket)
			s := openStore(t, p.options(test.bucket))
			p.setFault(test.fault)
			key := put(t, s, want)
			all := len(p.all("put part"))
			crc, md5 := crcs(p, "put part")
			if crc != test.crc || md5 != test.md5 || all != test.all {
				t.Errorf("%d parts are put, %d with CRC-32C, %d with MD5; want %d, %d, %d", all, crc, md5, test.all, test.crc, test.md5)
			}
			checkObject(t, s, key, want)
			p.setFault(nil)
			small := put(t, s, want[:1000])
			crcs(p, "put object")
			checkObject(t, s, small, want[:1000])
		})
	}
}

// TestChecksumsRefusedAtOnce has two uploads learn at the same time that the store does not know CRC-32C.
func TestChecksumsRefusedAtOnce(t *testing.T) {
	b := service.S3(t)
	p := newProxy(t, b)
	s := openStore(t, p.options(b))
	var both sync.WaitGroup
	both.Add(2)
	p.setFault(func(op string, n int) fault {
		if op == "put object" && n <= 2 {
			return fault{status: 501, code: "NotImplemented", before: func() { both.Done(); both.Wait() }}
		}
		return fault{}
	})
	var group sync.WaitGroup
	for i := range 2 {
		group.Go(func() {
			w := create(t, s)
			if _, err := w.Write(content(byte(i), 1000)); err != nil {
				t.Error(err)
			}
			if err := w.Commit(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}
