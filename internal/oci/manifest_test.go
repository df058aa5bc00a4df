package oci

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

const schema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"

var (
	dA = DigestBytes(SHA256, []byte("a"))
	dB = DigestBytes(SHA256, []byte("b"))
	dC = DigestBytes(SHA512, []byte("c"))
)

// desc is a descriptor in JSON.
func desc(mediaType string, d Digest, size int) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, d, size)
}

const (
	config = "application/vnd.oci.image.config.v1+json"
	layer  = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// image is an image manifest; more is further fields, each followed by a comma.
func image(more string) string {
	return `{` + more + `"schemaVersion":2,"config":` + desc(config, dA, 1) + `,"layers":[` + desc(layer, dB, 2) + `,` + desc(layer, dC, 3) + `]}`
}

func index(more string) string {
	return `{` + more + `"schemaVersion":2,"manifests":[` + desc(MediaTypeImage, dA, 1) + `,` + desc(MediaTypeDockerImage, dB, 2) + `]}`
}

func typed(mediaType string) string { return fmt.Sprintf(`"mediaType":%q,`, mediaType) }

func digests(ds []Descriptor) []Digest {
	var out []Digest
	for _, d := range ds {
		out = append(out, d.Digest)
	}
	return out
}

func TestParseManifestTypes(t *testing.T) {
	for _, c := range []struct {
		mediaType string
		body      func(more string) string
		index     bool
	}{
		{MediaTypeImage, image, false},
		{MediaTypeDockerImage, image, false},
		{MediaTypeIndex, index, true},
		{MediaTypeDockerIndex, index, true},
	} {
		for _, way := range []struct{ name, header, body string }{
			{"both", c.mediaType, c.body(typed(c.mediaType))},
			{"in the header", c.mediaType, c.body("")},
			{"in the body", "", c.body(typed(c.mediaType))},
			{"with parameters", c.mediaType + "; charset=utf-8", c.body("")},
			{"with broken parameters", c.mediaType + "; charset", c.body("")},
			{"in capitals", strings.ToUpper(c.mediaType), c.body(typed(c.mediaType))},
		} {
			m, err := ParseManifest(way.header, []byte(way.body))
			if err != nil {
				t.Errorf("%s %s: %v", c.mediaType, way.name, err)
				continue
			}
			if m.MediaType != c.mediaType || m.IsIndex() != c.index {
				t.Errorf("%s %s: it is %s, index %v", c.mediaType, way.name, m.MediaType, m.IsIndex())
			}
			wantBlobs, wantManifests := []Digest{dA, dB, dC}, []Digest(nil)
			if c.index {
				wantBlobs, wantManifests = nil, []Digest{dA, dB}
			}
			if !slices.Equal(digests(m.Blobs), wantBlobs) || !slices.Equal(digests(m.Manifests), wantManifests) {
				t.Errorf("%s %s: blobs %v, manifests %v", c.mediaType, way.name, m.Blobs, m.Manifests)
			}
		}
	}
	for body, want := range map[string]string{image(""): MediaTypeImage, index(""): MediaTypeIndex} {
		if m, err := ParseManifest("", []byte(body)); err != nil || m.MediaType != want {
			t.Errorf("without any type: %+v, %v, want %s", m, err, want)
		}
	}
}

func TestParseManifestFields(t *testing.T) {
	subject := `"subject":` + desc(MediaTypeImage, dB, 7) + `,`
	m, err := ParseManifest("", []byte(image(subject+`"artifactType":"application/x","annotations":{"k":"v","":"é"},"data":[1],"config2":{"digest":0},`)))
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject == nil || m.Subject.Digest != dB || m.Subject.Size != 7 || m.ArtifactType != "application/x" ||
		!maps.Equal(m.Annotations, map[string]string{"k": "v", "": "é"}) {
		t.Errorf("%+v", m)
	}
	// spec.md#listing-referrers: the config's type stands in for the artifact's, which an index lacks.
	for body, want := range map[string]string{
		image(subject):                                    config,
		image(`"artifactType":"",`):                       config,
		image(`"artifactType":null,`):                     config,
		index(subject):                                    "",
		index(subject + `"artifactType":"a/b",`):          "a/b",
		image(`"artifactType":"` + MediaTypeEmpty + `",`): MediaTypeEmpty,
	} {
		if m, err := ParseManifest("", []byte(body)); err != nil || m.ArtifactType != want {
			t.Errorf("artifact type %+v, %v, want %q", m, err, want)
		}
	}
	// What older tools write for "none".
	for _, body := range []string{
		`{"schemaVersion":2,"config":` + desc(config, dA, 1) + `,"layers":null}`,
		`{"schemaVersion":2,"config":` + desc(config, dA, 1) + `,"layers":[],"subject":null,"annotations":null}`,
		`{"schemaVersion":2,"manifests":null}`,
		`{"schemaVersion":2,"manifests":[]}`,
	} {
		if m, err := ParseManifest("", []byte(body)); err != nil || m.Subject != nil || len(m.Blobs)+len(m.Manifests) > 1 {
			t.Errorf("%s: %+v, %v", body, m, err)
		}
	}
	full := `{"mediaType":"` + MediaTypeImage + `","digest":"` + dA.String() + `","size":9007199254740993,"artifactType":"t","urls":["u"],
		"annotations":{"a":"b"},"platform":{"architecture":"arm64","os":"linux","variant":"v8","os.version":"1"},"data":"e30="}`
	m, err = ParseManifest("", []byte(`{"schemaVersion":2,"manifests":[`+full+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := m.Manifests[0]; d.Size != 9007199254740993 || d.ArtifactType != "t" || d.URLs[0] != "u" || d.Annotations["a"] != "b" ||
		*d.Platform != (Platform{"arm64", "linux", "v8", "1"}) {
		t.Errorf("%+v", d)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	ok := desc(config, dA, 1)
	for name, c := range map[string]struct{ header, body string }{
		"nothing":                           {"", ``},
		"no JSON":                           {MediaTypeImage, `<html>`},
		"null":                              {MediaTypeImage, `null`},
		"a list":                            {MediaTypeImage, `[` + image("") + `]`},
		"a string":                          {MediaTypeImage, `"x"`},
		"an empty object":                   {"", `{}`},
		"broken off":                        {MediaTypeImage, image("")[:100]},
		"without its end":                   {MediaTypeImage, strings.TrimSuffix(image(""), "}")},
		"followed by bytes":                 {MediaTypeImage, image("") + "x"},
		"followed by a document":            {MediaTypeImage, image("") + image("")},
		"followed by a NUL":                 {MediaTypeImage, image("") + "\x00"},
		"a byte order mark":                 {MediaTypeImage, "\ufeff" + image("")},
		"header and body disagree":          {MediaTypeImage, image(typed(MediaTypeDockerImage))},
		"header and body disagree in shape": {MediaTypeIndex, image(typed(MediaTypeImage))},
		"image called an index":             {MediaTypeIndex, image("")},
		"index called an image":             {MediaTypeImage, index("")},
		"image called an index in the body": {"", image(typed(MediaTypeIndex))},
		"index called an image in the body": {"", index(typed(MediaTypeImage))},
		"both shapes, as an image":          {MediaTypeImage, image(`"manifests":[],`)},
		"both shapes, as an index":          {MediaTypeIndex, index(`"config":` + ok + `,`)},
		"both shapes, layers in an index":   {MediaTypeIndex, index(`"layers":[],`)},
		"both shapes, untyped":              {"", image(`"manifests":[` + ok + `],`)},
		"both shapes, one of them null":     {MediaTypeImage, image(`"manifests":null,`)},
		"schema 1":                          {"application/vnd.docker.distribution.manifest.v1+json", `{"schemaVersion":1,"fsLayers":[]}`},
		"schema 1, signed":                  {schema1Signed, `{"schemaVersion":1,"signatures":[]}`},
		"schema 1, untyped":                 {"", `{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[]}`},
		"schema 1 in a shape of schema 2":   {schema1Signed, image("")},
		"plain JSON":                        {"application/json", image("")},
		"an unknown type":                   {"application/vnd.example+json", image("")},
		"an unknown type in the body":       {"", image(typed("application/vnd.example+json"))},
		"a type of layers":                  {layer, image("")},
		"no media type":                     {";;;", image("")},
		"schemaVersion 1":                   {MediaTypeImage, `{"schemaVersion":1,"config":` + ok + `,"layers":[]}`},
		"schemaVersion 3":                   {MediaTypeImage, `{"schemaVersion":3,"config":` + ok + `,"layers":[]}`},
		"schemaVersion missing":             {MediaTypeImage, `{"config":` + ok + `,"layers":[]}`},
		"schemaVersion a string":            {MediaTypeImage, `{"schemaVersion":"2","config":` + ok + `,"layers":[]}`},
		"schemaVersion huge":                {MediaTypeImage, `{"schemaVersion":` + strings.Repeat("2", 1<<20) + `,"config":` + ok + `}`},
		"config missing":                    {MediaTypeImage, `{"schemaVersion":2,"layers":[]}`},
		"config null":                       {MediaTypeImage, `{"schemaVersion":2,"config":null,"layers":[]}`},
		"config a list":                     {MediaTypeImage, `{"schemaVersion":2,"config":[` + ok + `],"layers":[]}`},
		"config empty":                      {MediaTypeImage, `{"schemaVersion":2,"config":{},"layers":[]}`},
		"layers an object":                  {MediaTypeImage, `{"schemaVersion":2,"config":` + ok + `,"layers":` + ok + `}`},
		"a layer null":                      {MediaTypeImage, `{"schemaVersion":2,"config":` + ok + `,"layers":[null]}`},
		"a layer without digest":            {MediaTypeImage, `{"schemaVersion":2,"config":` + ok + `,"layers":[{"mediaType":"a","size":1}]}`},
		"a layer without mediaType":         {MediaTypeImage, `{"schemaVersion":2,"config":` + ok + `,"layers":[{"digest":"` + dB.String() + `","size":1}]}`},
		"a layer of negative size":          {MediaTypeImage, `{"schemaVersion":2,"config":` + ok + `,"layers":[` + desc(layer, dB, -1) + `]}`},
		"a layer of fractional size":        {MediaTypeImage, `{"schemaVersion":2,"config":{"mediaType":"a","digest":"` + dB.String() + `","size":1.5}}`},
		"a layer larger than 2^63":          {MediaTypeImage, `{"schemaVersion":2,"config":{"mediaType":"a","digest":"` + dB.String() + `","size":9223372036854775808}}`},
		"a digest of md5":                   {MediaTypeImage, `{"schemaVersion":2,"config":{"mediaType":"a","digest":"md5:0123456789abcdef0123456789abcdef","size":1}}`},
		"a digest that climbs":              {MediaTypeImage, `{"schemaVersion":2,"config":{"mediaType":"a","digest":"sha256:../../../etc/passwd","size":1}}`},
		"a digest with a number":            {MediaTypeImage, `{"schemaVersion":2,"config":{"mediaType":"a","digest":5,"size":1}}`},
		"an empty digest":                   {MediaTypeImage, `{"schemaVersion":2,"config":{"mediaType":"a","digest":"","size":1}}`},
		"a child without digest":            {MediaTypeIndex, `{"schemaVersion":2,"manifests":[{"mediaType":"a","size":1}]}`},
		"manifests missing":                 {MediaTypeIndex, `{"schemaVersion":2}`},
		"subject empty":                     {MediaTypeImage, image(`"subject":{},`)},
		"subject a digest":                  {MediaTypeImage, image(`"subject":"` + dB.String() + `",`)},
		"annotations of numbers":            {MediaTypeImage, image(`"annotations":{"a":1},`)},
		"annotations a list":                {MediaTypeImage, image(`"annotations":["a"],`)},
		"mediaType a number":                {MediaTypeImage, image(`"mediaType":2,`)},
		// A reader that ignores case would see another manifest than one that does not.
		"Config":                         {MediaTypeImage, strings.Replace(image(""), `"config"`, `"Config"`, 1)},
		"MANIFESTS":                      {MediaTypeIndex, strings.Replace(index(""), `"manifests"`, `"MANIFESTS"`, 1)},
		"SchemaVersion":                  {MediaTypeImage, strings.Replace(image(""), `"schemaVersion"`, `"SchemaVersion"`, 1)},
		"Digest of a layer":              {MediaTypeImage, strings.Replace(image(""), `"digest"`, `"Digest"`, 2)},
		"a digest with a long s":         {MediaTypeImage, strings.Replace(image(""), `"digest"`, `"dige\u017ft"`, 1)},
		"layers twice":                   {MediaTypeImage, image(`"layers":[],`)},
		"config twice, one of them null": {MediaTypeImage, image(`"config":null,`)},
		"annotations twice":              {MediaTypeImage, image(`"annotations":{},"annotations":{"a":"b"},`)},
		"a digest twice":                 {MediaTypeImage, strings.Replace(image(""), `{"mediaType"`, `{"digest":"`+dC.String()+`","mediaType"`, 1)},
		"deeply nested lists":            {MediaTypeImage, image(`"x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `,`)},
		"deeply nested objects":          {MediaTypeImage, image(`"x":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000) + `,`)},
		"deeply nested, never closed":    {"", strings.Repeat("[", 4<<20)},
		"deeply nested in annotations":   {MediaTypeImage, image(`"annotations":{"a":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + `},`)},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := ParseManifest(c.header, []byte(c.body))
			if err == nil {
				t.Fatalf("accepted as %+v", m)
			}
			wantCode(t, err, CodeManifestInvalid)
		})
	}
}

func TestSchema1SaysWhatToDo(t *testing.T) {
	for body, contentType := range map[string]string{
		`{"schemaVersion":1}`: schema1Signed,
		`{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[]}`: "",
		`{"schemaVersion":1,"signatures":[]}`:                                 "",
	} {
		_, err := ParseManifest(contentType, []byte(body))
		if err == nil || !strings.Contains(err.Error(), "schema 1") || !strings.Contains(err.Error(), "skopeo") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// A name in another case is an unknown field: the exact one counts, wherever it stands.
func TestNamesAreExact(t *testing.T) {
	decoy := desc("application/x-decoy", dC, 9)
	for _, body := range []string{
		`{"schemaVersion":2,"config":` + desc(config, dA, 1) + `,"Config":` + decoy + `,"layers":[],"Layers":[` + decoy + `]}`,
		`{"Config":` + decoy + `,"config":` + desc(config, dA, 1) + `,"SchemaVersion":1,"schemaVersion":2,"Manifests":[` + decoy + `]}`,
		`{"schemaVersion":2,"config":{"mediaType":"` + config + `","digest":"` + dA.String() + `","size":1,"Digest":"` + dC.String() + `","SIZE":9,"MediaType":"x"}}`,
		`{"schemaversion":1,"schemaVersion":2,"mediatype":"x","mediaType":"` + MediaTypeImage + `","config":` + desc(config, dA, 1) + `}`,
		`{"schemaVersion":2,"config":{"Digest":"` + dC.String() + `","mediaType":"` + config + `","digest":"` + dA.String() + `","size":1}}`,
	} {
		m, err := ParseManifest(MediaTypeImage, []byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if len(m.Blobs) != 1 || m.Blobs[0].Digest != dA || m.Blobs[0].Size != 1 || m.Blobs[0].MediaType != config {
			t.Errorf("%s: %+v", body, m.Blobs)
		}
	}
	m, err := ParseManifest("", []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"a","digest":"`+dA.String()+`","size":1,
		"platform":{"architecture":"amd64","os":"linux","Architecture":"arm64","OS":"windows"}}]}`))
	if err != nil || *m.Manifests[0].Platform != (Platform{Architecture: "amd64", OS: "linux"}) {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestRepeatedDigests(t *testing.T) {
	foreign := "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	body := func(layers ...string) string {
		return `{"schemaVersion":2,"config":` + desc(config, dA, 1) + `,"layers":[` + strings.Join(layers, ",") + `]}`
	}
	for _, c := range []struct {
		body    string
		want    []Digest
		foreign []bool
	}{
		{body(desc(layer, dB, 1), desc(layer, dB, 1), desc(layer, dB, 1)), []Digest{dA, dB}, []bool{false, false}},
		{body(desc(layer, dA, 1)), []Digest{dA}, []bool{false}},
		{body(desc(layer, dB, 1), desc(layer, dC, 1), desc(layer, dB, 1)), []Digest{dA, dB, dC}, []bool{false, false, false}},
		{body(desc(foreign, dB, 1)), []Digest{dA, dB}, []bool{false, true}},
		// Content that must be here for one descriptor must be here.
		{body(desc(foreign, dB, 1), desc(layer, dB, 1)), []Digest{dA, dB}, []bool{false, false}},
		{body(desc(layer, dB, 1), desc(foreign, dB, 1)), []Digest{dA, dB}, []bool{false, false}},
		{body(desc(foreign, dA, 1)), []Digest{dA}, []bool{false}},
	} {
		m, err := ParseManifest("", []byte(c.body))
		if err != nil {
			t.Fatal(err)
		}
		var foreign []bool
		for _, d := range m.Blobs {
			foreign = append(foreign, d.Foreign())
		}
		if !slices.Equal(digests(m.Blobs), c.want) || !slices.Equal(foreign, c.foreign) {
			t.Errorf("%s: %v, foreign %v", c.body, digests(m.Blobs), foreign)
		}
	}
	child := desc(MediaTypeImage, dA, 1)
	m, err := ParseManifest("", []byte(`{"schemaVersion":2,"manifests":[`+child+`,`+child+`]}`))
	if err != nil || len(m.Manifests) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestForeign(t *testing.T) {
	for mediaType, want := range map[string]bool{
		"application/vnd.oci.image.layer.nondistributable.v1.tar":      true,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": true,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": true,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    true,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            false,
		layer: false,
		"":    false,
	} {
		if got := (Descriptor{MediaType: mediaType, URLs: []string{"https://example.com"}}).Foreign(); got != want {
			t.Errorf("%q: foreign %v", mediaType, got)
		}
	}
}
