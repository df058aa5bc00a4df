package registry_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
	"github.com/berthregistry/berth/internal/registry"
)

// unread fails the test when it is read.
type unread struct{ testing.TB }

func (u unread) Read([]byte) (int, error) {
	u.Error("the body was read")
	return 0, io.EOF
}

func TestQuota(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	quota := meta.Quota{Organization: "team", Bytes: new(int64), Warn: 50}
	*quota.Bytes = 1000
	if err := w.db.SetQuota(ctx, quota); err != nil {
		t.Fatal(err)
	}
	put := func(r oci.Repository, content string) error {
		return w.PutBlob(ctx, r, oci.DigestBytes(oci.SHA256, []byte(content)), body(content))
	}
	large := strings.Repeat("l", 600)
	if err := put("team/app", large); err != nil {
		t.Fatal(err)
	}
	refused := func(err error) {
		t.Helper()
		e, ok := errors.AsType[*oci.Error](err)
		if !ok || e.HTTPStatus() != 403 || e.Code != oci.CodeDenied || !strings.Contains(e.Message, "organization team uses 600 of the 1,000 bytes") ||
			!strings.Contains(fmt.Sprint(e.Detail), "team bytes 1000 600") {
			t.Fatalf("error is %+v", err)
		}
	}
	// What was refused leaves nothing.
	refused(put("team/app", strings.Repeat("m", 500)))
	if n := w.files(); n != 1 {
		t.Errorf("there are %d objects", n)
	}
	s := w.StartUpload("team/app", oci.SHA256, 0)
	if _, err := w.AppendUpload(ctx, s, body(strings.Repeat("n", 500))); err != nil {
		t.Fatal(err)
	}
	refused(w.FinishUpload(ctx, s, oci.DigestBytes(oci.SHA256, []byte(strings.Repeat("n", 500))), body("")))
	if _, err := w.UploadSize(ctx, s); err == nil {
		t.Error("the upload that was refused goes on")
	}
	if _, err := w.MountBlob(ctx, "team/b", "team/app", oci.DigestBytes(oci.SHA256, []byte(large))); err == nil {
		t.Error("a mount that does not fit was made")
	} else {
		refused(err)
	}
	// Nobody sends for nothing what is announced to be too large.
	d := oci.DigestBytes(oci.SHA256, []byte("never sent"))
	announced := registry.Body{Reader: unread{t}, First: -1, Length: 1 << 30, Interrupt: func() {}}
	refused(w.PutBlob(ctx, "team/app", d, announced))
	_, err := w.AppendUpload(ctx, w.StartUpload("team/app", oci.SHA256, 0), announced)
	refused(err)
	refused(w.FinishUpload(ctx, w.StartUpload("team/app", oci.SHA256, 0), d, announced))

	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":600},"layers":[]}`,
		oci.MediaTypeImage, oci.DigestBytes(oci.SHA256, []byte(large)))
	pushed, err := w.PutManifest(ctx, registry.Push{Repository: "team/app", Reference: oci.Reference{Tag: "1"}, ContentType: oci.MediaTypeImage, Body: []byte(manifest)})
	if err != nil || len(pushed.Warnings) != 1 || !strings.Contains(pushed.Warnings[0], fmt.Sprintf("uses %d of the 1,000 bytes", 600+len(manifest))) {
		t.Errorf("%+v, %v", pushed, err)
	}
	if err := put("other/app", strings.Repeat("o", 2000)); err != nil {
		t.Error(err)
	}
}
