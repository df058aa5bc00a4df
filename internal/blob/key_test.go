package blob_test

import (
	"testing"
	"time"

	"github.com/berthregistry/berth/internal/blob"
)

func TestKeyHour(t *testing.T) {
	at := time.Date(2026, 11, 21, 17, 0, 0, 0, time.UTC)
	key := blob.NewKey(at.Format(blob.HourLayout))
	if hour, ok := blob.KeyHour(key); !ok || !hour.Equal(at) {
		t.Errorf("KeyHour(%q) = %v, %v", key, hour, ok)
	}
	for _, other := range []string{
		"", "x", key[1:], key + "A", key + "/x", key[:len(key)-1], "2" + key[:len(key)-1], "20261321/17" + key[11:], "20261121/24" + key[11:],
		"20261121-17" + key[11:], key[:11] + "-" + key[12:], key[:12] + "a" + key[13:], key[:12] + "1" + key[13:], key[:12] + ".." + key[14:],
	} {
		if hour, ok := blob.KeyHour(other); ok {
			t.Errorf("KeyHour(%q) = %v", other, hour)
		}
	}
}
