package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berthregistry/berth/test/harness"
)

// cosign is cosign with a key pair of the test's own. It keeps to itself: no
// transparency log, and no roots of trust from the network.
type cosign struct {
	*harness.Client
}

func newCosign(t *testing.T) cosign {
	t.Helper()
	c := cosign{harness.NewClient(t, "cosign")}
	c.Env = []string{"COSIGN_PASSWORD=test"}
	c.Run("generate-key-pair")
	c.file("root.json", `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`)
	return c
}

// file writes a file in the home directory, which is the working directory.
func (c cosign) file(name, text string) {
	c.T.Helper()
	if err := os.WriteFile(filepath.Join(c.Home, name), []byte(text), 0o644); err != nil {
		c.T.Fatal(err)
	}
}

func (c cosign) sign(args ...string) {
	c.T.Helper()
	c.Run(append([]string{"sign", "--yes", "--key", "cosign.key", "--tlog-upload=false"}, args...)...)
}

func verifying(command string, args ...string) []string {
	return append([]string{command, "--key", "cosign.pub", "--insecure-ignore-tlog=true", "--trusted-root", "root.json"}, args...)
}

// subject pushes an image and returns its reference by digest.
func subject(t *testing.T, repo string) string {
	t.Helper()
	image := hello(t, repo)
	api(t).PushImage(repo, "1", image)
	return host(t) + "/" + repo + "@" + image.Manifest.Digest.String()
}

func TestCosignSignVerifyWithTagScheme(t *testing.T) {
	t.Parallel()
	c := newCosign(t)
	ref := subject(t, "cosign/tags")
	out := c.Fail(verifying("verify", ref)...)
	harness.Contains(t, out, "no signatures found")
	c.sign("-a", "build=7", ref)
	harness.Contains(t, c.RunAll(verifying("verify", "-a", "build=7", ref)...), "The signatures were verified against the specified public key")
	c.sign("-a", "build=8", ref) // a second signature beside the first
	var signatures []any
	if err := json.Unmarshal([]byte(c.Run(verifying("verify", ref)...)), &signatures); err != nil || len(signatures) != 2 {
		t.Errorf("%d signatures were verified (%v), expected 2", len(signatures), err)
	}
	other := newCosign(t)
	other.Fail(verifying("verify", ref)...) // by another key
	_, digest, _ := strings.Cut(ref, "@")
	want := []string{"1", strings.Replace(digest, ":", "-", 1) + ".sig"}
	if got := api(t).Tags("cosign/tags"); !slices.Equal(got, want) {
		t.Errorf("tags are %q, expected %q", got, want)
	}
	wantStatuses(t, seen(t, "cosign/tags"), 200, 201, 202, 404)
}

func TestCosignSignVerifyWithReferrers(t *testing.T) {
	t.Parallel()
	c := newCosign(t)
	c.Env = append(c.Env, "COSIGN_EXPERIMENTAL=1")
	ref := subject(t, "cosign/referrers")
	c.sign("--registry-referrers-mode=oci-1-1", ref)
	harness.Contains(t, c.RunAll(verifying("verify", "--experimental-oci11=true", ref)...), "The signatures were verified against the specified public key")
	if got := api(t).Tags("cosign/referrers"); !slices.Equal(got, []string{"1"}) {
		t.Errorf("tags are %q, expected the signature to have none", got)
	}
	wantReferrers(t, ref, 1)
}

// A bundle is what cosign writes by default from version 3 on.
func TestCosignBundleAsReferrer(t *testing.T) {
	t.Parallel()
	c := newCosign(t)
	ref := subject(t, "cosign/bundle")
	c.sign("--new-bundle-format", ref)
	c.Run(verifying("verify", "--new-bundle-format", ref)...)
	wantReferrers(t, ref, 1)
}

func TestCosignAttestations(t *testing.T) {
	t.Parallel()
	c := newCosign(t)
	ref := subject(t, "cosign/attest")
	c.file("predicate.json", `{"answer": 42}`)
	for _, bundle := range []string{"--new-bundle-format=false", "--new-bundle-format=true"} {
		c.Run("attest", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--type", "custom", "--predicate", "predicate.json", bundle, ref)
		c.Run(verifying("verify-attestation", "--type", "custom", bundle, ref)...)
	}
	harness.Contains(t, c.Run("download", "attestation", ref), "payload")
}

func TestCosignAttach(t *testing.T) {
	t.Parallel()
	c := newCosign(t)
	ref := subject(t, "cosign/attach")
	// A signature made elsewhere.
	c.file("payload", c.Run("generate", ref))
	c.Run("sign-blob", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--output-signature", "signature", "payload")
	c.Run("attach", "signature", "--payload", "payload", "--signature", "signature", ref)
	c.Run(verifying("verify", ref)...)
	harness.Contains(t, c.Run("download", "signature", ref), "Base64Signature")
	c.file("sbom.spdx", `{"spdxVersion": "SPDX-2.3"}`)
	c.Run("attach", "sbom", "--sbom", "sbom.spdx", "--type", "spdx", ref)
	harness.Contains(t, c.Run("download", "sbom", ref), "SPDX-2.3")
	harness.Contains(t, c.Run("tree", ref), "Signatures", "SBOMs")
}

func TestCosignCopyCleanAndSave(t *testing.T) {
	t.Parallel()
	c := newCosign(t)
	ref := subject(t, "cosign/copy")
	c.sign(ref)
	target := host(t) + "/cosign/copy-target"
	_, digest, _ := strings.Cut(ref, "@")
	c.Run("copy", ref, target+":1")
	c.Run(verifying("verify", target+"@"+digest)...)
	c.Run("save", "--dir", filepath.Join(c.Home, "saved"), ref)
	c.Run("load", "--dir", filepath.Join(c.Home, "saved"), host(t)+"/cosign/loaded:1")
	c.Run(verifying("verify", host(t)+"/cosign/loaded@"+digest)...)
	c.Run("clean", "--force", target+"@"+digest)
	c.Fail(verifying("verify", target+"@"+digest)...)
	c.Run(verifying("verify", ref)...) // the first repository keeps its own
}

// wantReferrers fails the test unless the image has n referrers.
func wantReferrers(t *testing.T, ref string, n int) {
	t.Helper()
	name, digest, _ := strings.Cut(ref, "@")
	_, repo, _ := strings.Cut(name, "/")
	resp := api(t).Expect(http.StatusOK, "GET", "/v2/"+repo+"/referrers/"+digest, nil)
	var index v1.Index
	if err := json.Unmarshal(resp.Bytes, &index); err != nil || len(index.Manifests) != n {
		t.Errorf("%s has %d referrers (%v), expected %d:\n%s", ref, len(index.Manifests), err, n, resp.Bytes)
	}
}
