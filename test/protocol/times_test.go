package protocol

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// Clusters that have an image ask by HEAD only, whether its tag has moved: that is use of it, too. A server that stops in good order forgets none.
func TestClients_HeadCountsAsPull(t *testing.T) {
	t.Parallel()
	s := harness.Start(t, harness.Settings{})
	a := harness.NewAPI(t, s)
	for _, tag := range []string{"by-get", "by-head", "looked-at", "never"} {
		a.PushImage("times/app", tag, image())
	}
	a.Expect(http.StatusOK, "GET", "/v2/times/app/manifests/by-get", nil)
	a.Expect(http.StatusOK, "HEAD", "/v2/times/app/manifests/by-head", nil)
	a.Expect(http.StatusOK, "GET", "/v2/times/app/manifests/looked-at", nil, harness.Header{"Berth-Inspect": "1"})
	a.Expect(http.StatusOK, "GET", "/v2/times/app/tags/list", nil)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct{ Tag, Pushed, Pulled string }
	}
	if err := json.Unmarshal(a.Expect(http.StatusOK, "GET", "/api/v1/tags/times/app", nil).Bytes, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 4 {
		t.Fatalf("tags: %+v", list.Items)
	}
	for _, tag := range list.Items {
		if want := tag.Tag == "by-get" || tag.Tag == "by-head"; want != (tag.Pulled != "") || tag.Pushed == "" {
			t.Errorf("%+v", tag)
		}
	}
}
