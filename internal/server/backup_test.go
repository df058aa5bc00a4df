package server

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBackupPlace(t *testing.T) {
	for text, want := range map[string]string{
		"/mnt/backup": "", "backup": "",
		"s3://bucket?region=eu-central-1":                                    "bucket ",
		"s3://bucket/a/b/?endpoint=https://s3.example.org&path_style=on":     "bucket a/b/",
		"s3://bucket/a?endpoint=http://127.0.0.1:9000&region=x&profile=copy": "bucket a/",
	} {
		var p BackupPlace
		if err := p.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		opts, ok, err := p.bucket()
		if got := opts.Bucket + " " + opts.Prefix; err != nil || ok != (want != "") || ok && got != want || p.IsBucket() != ok {
			t.Errorf("%s is %q, %t, %v", text, got, ok, err)
		}
	}
	for _, text := range []string{"s3://", "s3:bucket", "s3://bucket", "s3://key:secret@bucket?region=x", "s3://bucket?region=x#f",
		"s3://bucket?region=x&secret_access_key=s", "s3://bucket?region=x&path_style=maybe", "s3://bucket?region=%zz"} {
		var p BackupPlace
		if err := p.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%s is taken for a place", text)
		}
	}
}

// A backup is not kept where the registry's own objects are.
func TestBackupElsewhere(t *testing.T) {
	folder, bucket := Default(), Default()
	folder.Data = t.TempDir()
	bucket.Storage.S3 = S3{Bucket: "mine", Endpoint: "https://s3.example.org", Prefix: "registry/"}
	if err := os.MkdirAll(BlobFolder(folder.Data), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cfg *Config
		to  string
		ok  bool
	}{
		{folder, filepath.Join(folder.Data, "blobs"), false},
		{folder, filepath.Join(folder.Data, "blobs", "backup"), false},
		{folder, filepath.Join(folder.Data, "x", "..", "blobs"), false},
		{folder, filepath.Join(folder.Data, "backup"), true},
		{folder, "elsewhere", true},
		{folder, "s3://mine/registry?endpoint=https://s3.example.org", true},
		{bucket, "s3://mine/registry?endpoint=https://s3.example.org", false},
		{bucket, "s3://mine/backup?endpoint=https://s3.example.org", true},
		{bucket, "s3://other/registry?endpoint=https://s3.example.org", true},
	} {
		if err := test.cfg.checkBackup(BackupPlace(test.to)); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.to, err)
		}
	}
}
