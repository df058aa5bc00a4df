package registry_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/berthregistry/berth/internal/meta"
	"github.com/berthregistry/berth/internal/oci"
)

func TestConceal(t *testing.T) {
	w := newWorld(t)
	hidden := w.Conceal("secret/app")
	if strings.Contains(hidden, "secret") || w.Conceal("secret/app") == hidden {
		t.Errorf("%q", hidden)
	}
	if _, err := oci.ParseRepository(hidden); err == nil {
		t.Errorf("%q could be a name", hidden)
	}
	w.db.Close()
	w.open()
	if place, err := w.Reveal(hidden); err != nil || place != "secret/app" {
		t.Errorf("%q, %v", place, err)
	}
	if _, _, err := w.Visible(t.Context(), meta.Viewer{}, "", hidden, 10); err != nil {
		t.Error(err)
	}
	if _, _, err := w.Visible(t.Context(), meta.Viewer{}, "", "~forged", 10); err == nil {
		t.Error("a forged place is taken")
	}
	for _, name := range []string{"", "team/app", "!"} {
		if place, err := w.Reveal(name); err != nil || place != name {
			t.Errorf("%q: %q, %v", name, place, err)
		}
	}
	for _, forged := range []string{"~", "~!", "~AAAA", hidden + "A", hidden[:len(hidden)-2], newWorld(t).Conceal("secret/app")} {
		_, err := w.Reveal(forged)
		wantCode(t, err, oci.CodeUnsupported)
		if e, ok := err.(*oci.Error); !ok || e.HTTPStatus() != http.StatusBadRequest {
			t.Errorf("%q: %v", forged, err)
		}
	}
}
