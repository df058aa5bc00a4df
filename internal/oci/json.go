package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// field is a field of a JSON object that is of interest.
type field struct {
	name  string
	into  any  // as for json.Unmarshal; nil if only its presence counts
	there bool // set by decode
}

// decode reads the fields of a JSON object. Names must be equal: encoding/json alone would also
// take "Digest" for "digest". A name that stands twice is an error, since readers differ on which counts.
// Fields of other names are passed over, and cost no memory.
func decode(b []byte, fields []field) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	if t, err := dec.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errors.New("it is not a JSON object")
	}
	var raw json.RawMessage
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if i < 0 {
			continue
		}
		f := &fields[i]
		if f.there {
			return fmt.Errorf("field %q stands there twice", f.name)
		}
		f.there = true
		if f.into == nil {
			continue
		}
		if err := json.Unmarshal(raw, f.into); err != nil {
			return fmt.Errorf("field %q: %w", f.name, err)
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more follows the JSON object")
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. It matches names as ParseManifest does. A descriptor
// without a digest is an error, so that none is kept of a list that claims to have a million.
func (d *Descriptor) UnmarshalJSON(b []byte) error {
	err := decode(b, []field{
		{name: "mediaType", into: &d.MediaType},
		{name: "digest", into: &d.Digest},
		{name: "size", into: &d.Size},
		{name: "artifactType", into: &d.ArtifactType},
		{name: "annotations", into: &d.Annotations},
		{name: "urls", into: &d.URLs},
		{name: "platform", into: &d.Platform},
	})
	if err == nil && d.Digest.IsZero() {
		err = errors.New("a descriptor has no digest")
	}
	return err
}

// UnmarshalJSON implements json.Unmarshaler. It matches names as ParseManifest does.
func (p *Platform) UnmarshalJSON(b []byte) error {
	return decode(b, []field{
		{name: "architecture", into: &p.Architecture},
		{name: "os", into: &p.OS},
		{name: "variant", into: &p.Variant},
		{name: "os.version", into: &p.OSVersion},
	})
}
