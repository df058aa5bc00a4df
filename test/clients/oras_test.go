package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/berthregistry/berth/test/harness"
)

func orasRepository(t *testing.T, name string) *remote.Repository {
	t.Helper()
	r, err := remote.NewRepository(host(t) + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	r.PlainHTTP = true
	r.HandleWarning = func(w remote.Warning) { t.Logf("warning of %s: %s", name, w.Text) }
	return r
}

// A folder of files is pushed as an artifact and pulled again.
func TestOrasArtifactOfFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	source, err := file.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	dir := buildContext(t, "oras", nil)
	var layers []v1.Descriptor
	for _, name := range []string{"Dockerfile", "root"} {
		d, err := source.Add(ctx, name, "application/vnd.example.file", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, d)
	}
	const kind = "application/vnd.example.project"
	packed, err := oras.PackManifest(ctx, source, oras.PackManifestVersion1_1, kind, oras.PackManifestOptions{Layers: layers})
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Tag(ctx, packed, "v1"); err != nil {
		t.Fatal(err)
	}
	repo := orasRepository(t, "oras/files")
	if _, err := oras.Copy(ctx, source, "v1", repo, "v1", oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	target, err := file.New(out)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	got, err := oras.Copy(ctx, repo, "v1", target, "v1", oras.DefaultCopyOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != packed.Digest {
		t.Errorf("pulled %s, expected %s", got.Digest, packed.Digest)
	}
	if text, err := os.ReadFile(filepath.Join(out, "root", "text")); err != nil || string(text) != "oras" {
		t.Errorf("the pulled file has %q (%v)", text, err)
	}
	wantStatuses(t, seen(t, "oras/files"), 200, 201, 202, 404)
}

func TestOrasReferrersAndExtendedCopy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	image := hello(t, "oras subject")
	api(t).PushImage("oras/referrers", "1", image)
	repo := orasRepository(t, "oras/referrers")
	top := image.Manifest.Descriptor
	signature, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "application/vnd.example.signature", oras.PackManifestOptions{Subject: &top})
	if err != nil {
		t.Fatal(err)
	}
	// Something that refers to what refers.
	if _, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "application/vnd.example.note", oras.PackManifestOptions{
		Subject: &signature, ManifestAnnotations: map[string]string{"note": "second"},
	}); err != nil {
		t.Fatal(err)
	}
	var found []v1.Descriptor
	if err := repo.Referrers(ctx, top, "application/vnd.example.signature", func(page []v1.Descriptor) error {
		found = append(found, page...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Digest != signature.Digest || found[0].ArtifactType != "application/vnd.example.signature" {
		t.Errorf("the referrers are %v", found)
	}
	if tags := api(t).Tags("oras/referrers"); !slices.Equal(tags, []string{"1"}) {
		t.Errorf("tags are %q: oras fell back to the tag scheme", tags)
	}

	target := orasRepository(t, "oras/referrers-copy")
	if _, err := oras.ExtendedCopy(ctx, repo, "1", target, "1", oras.DefaultExtendedCopyOptions); err != nil {
		t.Fatal(err)
	}
	predecessors, err := target.Predecessors(ctx, signature)
	if err != nil || len(predecessors) != 1 || predecessors[0].Annotations["note"] != "second" {
		t.Errorf("the predecessors of the copied signature are %v (%v)", predecessors, err)
	}
	if err := repo.Delete(ctx, signature); err != nil {
		t.Fatal(err)
	}
	if left, err := repo.Predecessors(ctx, top); err != nil || len(left) != 0 {
		t.Errorf("after the delete, the referrers are %v (%v)", left, err)
	}
}

func TestOrasMountsAndFallsBackToUpload(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	blob := harness.NewBlob("application/octet-stream", harness.Random(1<<16))
	api(t).PushBlob("oras/mount-source", blob)
	target := orasRepository(t, "oras/mount-target")
	unused := func() (io.ReadCloser, error) { return nil, errors.New("the content was asked for") }
	if err := target.Mount(ctx, blob.Descriptor, "oras/mount-source", unused); err != nil {
		t.Fatal(err)
	}
	if got, err := content.FetchAll(ctx, target, blob.Descriptor); err != nil || !bytes.Equal(got, blob.Bytes) {
		t.Errorf("the mounted blob came back with %d bytes (%v)", len(got), err)
	}
	// From a repository that lacks it, the mount becomes an upload.
	other := harness.NewBlob("application/octet-stream", harness.Random(1<<16))
	given := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(other.Bytes)), nil }
	if err := target.Mount(ctx, other.Descriptor, "oras/nothing-here", given); err != nil {
		t.Fatal(err)
	}
	if ok, err := target.Exists(ctx, other.Descriptor); err != nil || !ok {
		t.Errorf("the blob is there: %v (%v)", ok, err)
	}
}

func TestOrasTagsInPages(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	repo := orasRepository(t, "oras/tags")
	repo.TagListPageSize = 7
	packed, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "application/vnd.example", oras.PackManifestOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("t%d", i))
	}
	if _, err := oras.TagN(ctx, repo, packed.Digest.String(), want, oras.DefaultTagNOptions); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	var got []string
	pages := 0
	if err := repo.Tags(ctx, "", func(page []string) error {
		pages++
		got = append(got, page...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) || pages != 5 {
		t.Errorf("%d pages had the tags %q, expected 5 pages with %q", pages, got, want)
	}
	reg, err := remote.NewRegistry(host(t))
	if err != nil {
		t.Fatal(err)
	}
	reg.PlainHTTP = true
	reg.RepositoryListPageSize = 3
	var repos []string
	if err := reg.Repositories(ctx, "", func(page []string) error { repos = append(repos, page...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(repos, "oras/tags") || !slices.IsSorted(repos) {
		t.Errorf("the repositories are %q", repos)
	}
}

func TestOrasBlobIsSeekable(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	blob := harness.NewBlob("application/octet-stream", harness.Random(1<<20))
	api(t).PushBlob("oras/seek", blob)
	r, err := orasRepository(t, "oras/seek").Blobs().Fetch(ctx, blob.Descriptor)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	seeker, ok := r.(io.ReadSeeker)
	if !ok {
		t.Fatal("oras finds no support for ranges")
	}
	for _, offset := range []int64{1 << 19, 5, 1<<20 - 3} {
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, min(100, 1<<20-offset))
		if _, err := io.ReadFull(seeker, got); err != nil || !bytes.Equal(got, blob.Bytes[offset:][:len(got)]) {
			t.Errorf("at offset %d: other bytes (%v)", offset, err)
		}
	}
}

func TestOrasNotFound(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	repo := orasRepository(t, "oras/not-found")
	if _, err := repo.Resolve(ctx, "latest"); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("Resolve returned %v", err)
	}
	if _, err := oras.Copy(ctx, repo, "latest", memory.New(), "", oras.DefaultCopyOptions); !errors.Is(err, errdef.ErrNotFound) {
		t.Errorf("Copy returned %v", err)
	}
	var response *errcode.ErrorResponse
	err := repo.Tags(ctx, "", func([]string) error { return nil })
	if !errors.As(err, &response) || response.StatusCode != http.StatusNotFound || response.Errors[0].Code != errcode.ErrorCodeNameUnknown {
		t.Errorf("Tags returned %v", err)
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := repo.Resolve(stopped, "latest"); !errors.Is(err, context.Canceled) {
		t.Errorf("Resolve returned %v", err)
	}
}
