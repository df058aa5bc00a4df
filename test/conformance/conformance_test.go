// Package conformance runs the official conformance suite of the OCI distribution
// specification against the real server, with every optional API and every kind of data
// switched on.
//
// The suite is a program of its own that is not part of this module. BERTH_CONFORMANCE
// names the directory of its source (conformance/ in the specification's repository) or the
// program built from it; ./scripts/conformance sets it.
package conformance

import (
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/berthregistry/berth/test/harness"
)

// given is what BERTH_CONFORMANCE names.
var given string

func TestMain(m *testing.M) {
	given = os.Getenv("BERTH_CONFORMANCE") // read first: the harness unsets the server's variables
	os.Exit(harness.Main(m))
}

// everything switches on what the suite leaves out by default in some version.
var everything = []string{
	"OCI_API_PING=true",
	"OCI_API_PULL=true",
	"OCI_API_PUSH=true",
	"OCI_API_BLOBS_ATOMIC=true",
	"OCI_API_BLOBS_DELETE=true",
	"OCI_API_BLOBS_DIGEST_HEADER=true",
	"OCI_API_BLOBS_MOUNT_ANONYMOUS=true",
	"OCI_API_BLOBS_UPLOAD_CANCEL=true",
	"OCI_API_MANIFESTS_ATOMIC=true",
	"OCI_API_MANIFESTS_DELETE=true",
	"OCI_API_MANIFESTS_DIGEST_HEADER=true",
	"OCI_API_MANIFESTS_TAG_PARAM=true",
	"OCI_API_TAGS_ATOMIC=true",
	"OCI_API_TAGS_DELETE=true",
	"OCI_API_TAGS_LIST=true",
	"OCI_API_REFERRER=true",
	"OCI_DATA_IMAGE=true",
	"OCI_DATA_INDEX=true",
	"OCI_DATA_INDEX_LIST=true",
	"OCI_DATA_SPARSE=true",
	"OCI_DATA_ARTIFACT=true",
	"OCI_DATA_SUBJECT=true",
	"OCI_DATA_SUBJECT_MISSING=true",
	"OCI_DATA_ARTIFACT_LIST=true",
	"OCI_DATA_SUBJECT_LIST=true",
	"OCI_DATA_DATA_FIELD=true",
	"OCI_DATA_NONDISTRIBUTABLE=true",
	"OCI_DATA_CUSTOM_FIELDS=true",
	"OCI_DATA_NO_LAYERS=true",
	"OCI_DATA_EMPTY_BLOB=true",
	"OCI_DATA_SHA512=true",
}

// leastTests is fewer than the suite has in any version with everything on, so that a run that tests
// little does not pass.
const leastTests = 500

// report is what is read of the suite's junit.xml.
type report struct {
	Suites []struct {
		Cases []struct {
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Message string `xml:"system-out"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func TestConformance(t *testing.T) {
	suite := program(t)
	for _, version := range []string{"1.1", "dev"} {
		t.Run(version, func(t *testing.T) {
			s := harness.Start(t, harness.Settings{Env: []string{"BERTH_SPARSE=all"}})
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), suite)
			cmd.Dir = dir // where the suite would look for a configuration
			cmd.Env = append([]string{
				"PATH=" + os.Getenv("PATH"),
				"HOME=" + dir,
				"OCI_VERSION=" + version,
				"OCI_REGISTRY=" + s.Addr,
				"OCI_TLS=disabled",
				"OCI_RESULTS_DIR=" + dir,
			}, everything...)
			out, runErr := cmd.CombinedOutput()
			text, err := os.ReadFile(filepath.Join(dir, "junit.xml"))
			if err != nil {
				t.Fatalf("the suite wrote no results: %v (%v)\n%s", err, runErr, out)
			}
			var r report
			if err := xml.Unmarshal(text, &r); err != nil {
				t.Fatalf("junit.xml: %v", err)
			}
			passed := 0
			for _, suite := range r.Suites {
				for _, c := range suite.Cases {
					if c.Status == "passed" {
						passed++
					} else {
						t.Errorf("%s: %s\n%s", c.Name, c.Status, c.Message)
					}
				}
			}
			if runErr != nil {
				t.Errorf("the suite ended with %v", runErr)
			}
			if passed < leastTests {
				t.Errorf("%d tests passed, expected at least %d\n%s", passed, leastTests, out)
			}
			t.Logf("%d tests passed", passed)
		})
	}
}

// program returns the path of the suite, built if its source is given.
func program(t *testing.T) string {
	t.Helper()
	if given == "" {
		// Also where CI=true: the suite is no Go module that could be installed.
		t.Skip("BERTH_CONFORMANCE is not set to the directory or the program of the OCI conformance suite; see ./scripts/conformance")
	}
	path, err := filepath.Abs(given)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !info.IsDir() {
		return path
	}
	out := filepath.Join(t.TempDir(), "conformance")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", out, ".")
	build.Dir = path
	build.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build of the suite in %s: %v\n%s", path, err, text)
	}
	return out
}
