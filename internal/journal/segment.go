package journal

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

// root is where the journal's documents are.
const root = "journal/"

// A part of the journal is a document of JSON lines, compressed by gzip, so that people can read it without Berth. Its name is
//
//	journal/EPOCH-checkpoint-RANDOM.jsonl.gz
//	journal/EPOCH-changes-NUMBER-RANDOM.jsonl.gz
//
// where EPOCH and NUMBER, the last change in it, are decimal numbers with leading zeros. journal/EPOCH-complete says that the
// epoch's checkpoint is whole.
type part struct {
	name       string
	size       int64
	epoch      int64
	checkpoint bool
	complete   bool
	last       int64 // the number of the last change
}

const (
	extension    = ".jsonl.gz"
	completeName = "complete"
)

func epochPrefix(epoch int64) string { return fmt.Sprintf("%s%08d-", root, epoch) }

func checkpointName(epoch int64) string {
	return epochPrefix(epoch) + "checkpoint-" + rand.Text()[:16] + extension
}

func changesName(epoch, last int64) string {
	return fmt.Sprintf("%schanges-%019d-%s%s", epochPrefix(epoch), last, rand.Text()[:16], extension)
}

// parsePart returns what a document is. ok is false for one of another form.
func parsePart(name string, size int64) (p part, ok bool) {
	p = part{name: name, size: size}
	rest, ok := strings.CutPrefix(name, root)
	if !ok {
		return p, false
	}
	number, rest, ok := strings.Cut(rest, "-")
	if !ok {
		return p, false
	}
	var err error
	if p.epoch, err = strconv.ParseInt(number, 10, 64); err != nil || p.epoch < 1 || epochPrefix(p.epoch) != root+number+"-" {
		return p, false
	}
	if rest == completeName {
		p.complete = true
		return p, true
	}
	if rest, ok = strings.CutSuffix(rest, extension); !ok {
		return p, false
	}
	if strings.HasPrefix(rest, "checkpoint-") {
		p.checkpoint = true
		return p, true
	}
	if rest, ok = strings.CutPrefix(rest, "changes-"); !ok {
		return p, false
	}
	last, _, ok := strings.Cut(rest, "-")
	if !ok {
		return p, false
	}
	p.last, err = strconv.ParseInt(last, 10, 64)
	return p, err == nil && p.last >= 0
}

// encode returns the bytes of a part.
func encode(records []meta.JournalRecord) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	lines := json.NewEncoder(z)
	lines.SetEscapeHTML(false)
	for i := range records {
		if err := lines.Encode(&records[i]); err != nil {
			return nil, fmt.Errorf("encode a record: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// maxRecord bounds a line, which holds a manifest at most.
const maxRecord = 1 << 30

// decode calls f for each record of a part. What f has been called for is as good with an error as without. A record that makes no
// sense is left out, and is the error if there is no other.
func decode(data []byte, f func(meta.JournalRecord) error) error {
	var wrong error
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("not a part of a journal: %w", err)
	}
	bounded := &io.LimitedReader{R: z}
	lines := json.NewDecoder(bounded)
	for {
		bounded.N = maxRecord
		var r meta.JournalRecord
		err := lines.Decode(&r)
		if errors.Is(err, io.EOF) && bounded.N > 0 {
			return wrong
		}
		if err != nil {
			return fmt.Errorf("after byte %d: %w", lines.InputOffset(), err)
		}
		if err := check(&r); err != nil {
			wrong = fmt.Errorf("record before byte %d: %w", lines.InputOffset(), err)
			continue
		}
		if err := f(r); err != nil {
			return err
		}
	}
}

// check fails if a record is none that Berth writes.
func check(r *meta.JournalRecord) error {
	if r.Change < 0 || r.RepositoryID <= 0 {
		return errors.New("its numbers make no sense")
	}
	if r.Repository != "" {
		if _, err := oci.ParseRepository(r.Repository); err != nil {
			return err
		}
	} else if !r.Gone {
		return errors.New("it names no repository")
	}
	var err error
	switch r.Kind {
	case meta.JournalRepository:
		if r.Ref != "" {
			err = fmt.Errorf("a repository has no %q", r.Ref)
		}
	case meta.JournalLink:
		_, err = oci.ParseDigest(r.Ref)
		if err == nil && !r.Gone && (r.Key == "" || r.Size < 0) {
			err = errors.New("it names no object")
		}
	case meta.JournalManifest:
		_, err = oci.ParseDigest(r.Ref)
	case meta.JournalTag:
		err = checkTag(r.Ref, r.Digest)
	case meta.JournalMove:
		var n int64
		if n, err = strconv.ParseInt(r.Ref, 10, 64); err == nil && (n <= 0 || strconv.FormatInt(n, 10) != r.Ref) {
			err = fmt.Errorf("%q is no number of a move", r.Ref)
		}
		if err == nil && !r.Gone {
			err = checkTag(r.Tag, r.Digest, r.Old)
		}
	default:
		err = fmt.Errorf("there are no records of kind %q", r.Kind)
	}
	return err
}

// checkTag checks a tag and the digests that it points to, of which one may be missing.
func checkTag(tag string, digests ...string) error {
	if _, err := oci.ParseTag(tag); err != nil {
		return err
	}
	some := false
	for _, d := range digests {
		if d == "" {
			continue
		}
		some = true
		if _, err := oci.ParseDigest(d); err != nil {
			return err
		}
	}
	if !some {
		return errors.New("it names no manifest")
	}
	return nil
}
