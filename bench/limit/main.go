// The command limit is the barest program that stores what it is sent so that it survives a
// loss of power: it reads the socket, hashes, writes, syncs the file, renames it and
// syncs the folder, once for each PUT, and does nothing else. It knows no repositories,
// tags, uploads or errors. What it reaches is the bound that the benchmark compares pushes with.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:5001", "`address` to listen on")
	dir := flag.String("data", "limit-data", "existing `folder` to store in")
	flag.Parse()
	if err := run(*listen, *dir); err != nil {
		log.Fatal(err)
	}
}

func run(listen, dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		s := &store{folder: folder, temp: filepath.Join(dir, fmt.Sprintf("incoming-%d", n))}
		go func() {
			if err := s.serve(conn); !errors.Is(err, io.EOF) {
				log.Print(err)
			}
			conn.Close()
		}()
	}
}

// bufferSize fits a processor's second-level cache, so that what was received is still there
// when it is hashed and written.
const bufferSize = 256 << 10

// store serves one connection.
type store struct {
	folder *os.File
	temp   string // name of the file that is being received
}

// serve stores one object for each PUT until the client goes away, which is io.EOF.
func (s *store) serve(conn net.Conn) error {
	buf := make([]byte, bufferSize)
	have := 0 // bytes at the beginning of buf that are received but not consumed
	for {
		end := -1
		for end < 0 {
			if have == len(buf) {
				return errors.New("the head of a request does not fit the buffer")
			}
			n, err := conn.Read(buf[have:])
			if err != nil {
				return err
			}
			have += n
			end = bytes.Index(buf[:have], []byte("\r\n\r\n"))
		}
		length, err := contentLength(buf[:end])
		if err != nil {
			return err
		}
		have = copy(buf, buf[end+4:have])
		if int64(have) > length {
			return errors.New("pipelined requests are not served")
		}
		digest, err := s.put(conn, buf, have, length)
		if err != nil {
			return err
		}
		have = 0
		if _, err := fmt.Fprintf(conn, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\nDocker-Content-Digest: sha256:%s\r\n\r\n", digest); err != nil {
			return err
		}
	}
}

// contentLength finds the length of the body in the head of a request.
func contentLength(head []byte) (int64, error) {
	const name = "\r\nContent-Length: "
	_, value, ok := bytes.Cut(head, []byte(name))
	if !ok {
		return 0, errors.New("a request has no Content-Length")
	}
	value, _, _ = bytes.Cut(value, []byte("\r\n"))
	return strconv.ParseInt(string(value), 10, 64)
}

// put stores an object of length bytes, the first of which are buf[:have] and the others
// are still to be received, under the digest that it returns.
func (s *store) put(conn io.Reader, buf []byte, have int, length int64) (digest string, err error) {
	f, err := os.Create(s.temp)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	for rest := length; ; {
		hash.Write(buf[:have])
		if _, err := f.Write(buf[:have]); err != nil {
			return "", err
		}
		rest -= int64(have)
		if rest == 0 {
			break
		}
		have, err = conn.Read(buf[:min(rest, int64(len(buf)))])
		if err != nil {
			return "", err
		}
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	digest = hex.EncodeToString(hash.Sum(nil))
	if err := os.Rename(s.temp, filepath.Join(s.folder.Name(), digest)); err != nil {
		return "", err
	}
	return digest, s.folder.Sync()
}
