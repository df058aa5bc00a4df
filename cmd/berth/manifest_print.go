package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/upstream"
)

// print writes v for people. What the registry sent is made printable.
func (v *manifestView) print(w io.Writer) error {
	var b bytes.Buffer
	field(&b, "Name", v.Name)
	field(&b, "Digest", v.Digest.String())
	field(&b, "Type", v.typeText())
	if len(v.details.Platforms) > 0 && len(v.Manifests) == 0 {
		field(&b, "Platform", strings.Join(platformNames(v.details.Platforms), ", "))
	}
	if t := v.details.Created; !t.IsZero() {
		field(&b, "Created", t.UTC().Format("2006-01-02 15:04:05 UTC")+" ("+ageText(t)+")")
	}
	if v.ContentSize != nil {
		field(&b, "Size", sizeText(*v.ContentSize))
	}
	if s := v.Subject; s != nil {
		field(&b, "Subject", s.Digest.String())
	}
	v.printConfig(&b)
	if len(v.Layers) > 0 {
		b.WriteString("\nLayers:\n")
		t := newTable(&b, "  ", "DIGEST", "SIZE", "TYPE")
		for _, d := range v.Layers {
			kind := upstream.Printable(d.MediaType)
			if d.Foreign() {
				kind += " (foreign: fetched from elsewhere)"
			}
			t.row(d.Digest.String(), sizeText(d.Size), kind)
		}
		t.flush()
	}
	if len(v.Manifests) > 0 {
		b.WriteString("\nManifests:\n")
		t := newTable(&b, "  ", "DIGEST", "PLATFORM", "SIZE", "TYPE")
		for _, d := range v.Manifests {
			t.row(d.Digest.String(), platformText(d), sizeText(d.Size), childType(d))
		}
		t.flush()
	}
	if len(v.Annotations) > 0 {
		b.WriteString("\nAnnotations:\n")
		printMap(&b, v.Annotations)
	}
	if len(v.Referrers) > 0 {
		b.WriteString("\nReferrers:\n")
		t := newTable(&b, "  ", "DIGEST", "SIZE", "TYPE")
		for _, d := range v.Referrers {
			t.row(d.Digest.String(), sizeText(d.Size), childType(d))
		}
		t.flush()
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (v *manifestView) typeText() string {
	s := upstream.Printable(v.MediaType)
	if v.ArtifactType != "" {
		s += " (" + artifactName(v.ArtifactType) + ")"
	}
	return s
}

func (v *manifestView) printConfig(b *bytes.Buffer) {
	if v.Config == nil {
		return
	}
	field(b, "Config", fmt.Sprintf("%s %s %s", v.Config.Digest, sizeText(v.Config.Size), upstream.Printable(v.Config.MediaType)))
	if v.Image == nil {
		return
	}
	c := v.Image.Config
	for _, f := range []struct {
		name   string
		values []string
	}{
		{"Entrypoint", c.Entrypoint},
		{"Cmd", c.Cmd},
		{"User", nonEmpty(c.User)},
		{"WorkDir", nonEmpty(c.WorkingDir)},
		{"Ports", slices.Sorted(maps.Keys(c.ExposedPorts))},
		{"Volumes", slices.Sorted(maps.Keys(c.Volumes))},
		{"Env", c.Env},
	} {
		for i, value := range f.values {
			name := "  " + f.name
			if i > 0 {
				name = ""
			}
			field(b, name, value)
		}
	}
	if len(c.Labels) > 0 {
		b.WriteString("\nLabels:\n")
		printMap(b, c.Labels)
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// field writes a line with a name and a value.
func field(b *bytes.Buffer, name, value string) {
	if name != "" {
		name += ":"
	}
	fmt.Fprintf(b, "%-14s%s\n", name, upstream.Printable(value))
}

func printMap(b *bytes.Buffer, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(b, "  %s: %s\n", upstream.Printable(k), upstream.Printable(m[k]))
	}
}

func platformText(d oci.Descriptor) string {
	if d.Platform == nil || d.Platform.OS == "unknown" {
		return "-"
	}
	s := upstream.FormatPlatform(*d.Platform)
	if d.Platform.OSVersion != "" {
		s += " (" + d.Platform.OSVersion + ")"
	}
	return upstream.Printable(s)
}

// childType returns what a descriptor in a list of manifests stands for.
func childType(d oci.Descriptor) string {
	if d.ArtifactType != "" {
		return artifactName(d.ArtifactType)
	}
	if kind := d.Annotations["vnd.docker.reference.type"]; kind != "" { // BuildKit's attestations
		return upstream.Printable(kind)
	}
	switch d.MediaType {
	case oci.MediaTypeImage, oci.MediaTypeDockerImage:
		return "image"
	case oci.MediaTypeIndex, oci.MediaTypeDockerIndex:
		return "index"
	}
	return upstream.Printable(d.MediaType)
}
