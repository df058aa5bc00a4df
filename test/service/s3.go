package service

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// The owner of every S3 server, who may do everything.
const (
	S3AccessKey = "berth-access-key"
	S3SecretKey = "correct-horse-battery"
	S3Region    = "eu-test-1"
)

// S3Programs are the S3 servers that the tests know, by their programs. The first is that of S3 and NewS3.
var S3Programs = []string{"versitygw", "minio"}

// S3Server is an S3 server over a folder.
type S3Server struct {
	Endpoint string // http://127.0.0.1:PORT
	Dir      string // of a versitygw: holds a folder for each bucket, with a file for each object

	program string
	args    []string
	process *exec.Cmd
	end     func()
}

// Bucket is a bucket of an S3 server.
type Bucket struct {
	Server                       *S3Server
	Name                         string
	Endpoint                     string
	Region, AccessKey, SecretKey string
}

// Env is the settings with which a server has its storage in the bucket.
func (b *Bucket) Env() []string {
	return []string{"BERTH_STORAGE_S3_BUCKET=" + b.Name, "BERTH_STORAGE_S3_ENDPOINT=" + b.Endpoint, "BERTH_STORAGE_S3_REGION=" + b.Region,
		"BERTH_STORAGE_S3_ACCESS_KEY_ID=" + b.AccessKey, "BERTH_STORAGE_S3_SECRET_ACCESS_KEY=" + b.SecretKey}
}

var sharedS3 struct {
	sync.Mutex
	servers map[string]*S3Server // by program
}

// S3 returns an empty bucket of its own in the S3 server of the test binary, which is started when it is first
// asked for. Without versitygw the test is skipped, or fails if CI=true.
func S3(t testing.TB) *Bucket {
	t.Helper()
	return S3Of(t, S3Programs[0])
}

// S3Of is S3 for one of S3Programs.
func S3Of(t testing.TB, program string) *Bucket {
	t.Helper()
	path := need(t, program)
	sharedS3.Lock()
	defer sharedS3.Unlock()
	if sharedS3.servers[program] == nil {
		server, err := startS3(path)
		if err != nil {
			t.Fatal(err)
		}
		if sharedS3.servers == nil {
			sharedS3.servers = make(map[string]*S3Server)
		}
		sharedS3.servers[program] = server
	}
	return sharedS3.servers[program].Bucket(t)
}

// NewS3 starts an S3 server that the test can stop and start, with more options of versitygw. It ends
// with the test.
func NewS3(t testing.TB, args ...string) *S3Server {
	t.Helper()
	server, err := startS3(need(t, S3Programs[0]), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Stop()
		server.end()
	})
	return server
}

func startS3(program string, args ...string) (*S3Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "berth-s3-")
	if err != nil {
		return nil, err
	}
	s := &S3Server{
		Endpoint: fmt.Sprint("http://127.0.0.1:", port), Dir: filepath.Join(dir, "data"),
		program: program, args: args,
	}
	if s.end, err = guard(nil, `[ -e "$1/pid" ] && kill -9 "$(cat "$1/pid")"; rm -rf "$1"`, dir); err != nil {
		return nil, err
	}
	if err = os.Mkdir(s.Dir, 0o755); err == nil {
		err = s.start()
	}
	if err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// Start starts a server that was stopped, on the same address and data.
func (s *S3Server) Start(t testing.TB) {
	t.Helper()
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
}

func (s *S3Server) start() error {
	address := strings.TrimPrefix(s.Endpoint, "http://")
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.Dir), "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := s.command(address)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the S3 server: %w", err)
	}
	s.process = cmd
	if err := os.WriteFile(s.pidFile(), fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
		s.Stop()
		return err
	}
	for range 6000 { // a minute: the machine may be busy
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.Stop()
	return fmt.Errorf("%s does not listen:\n%s", s.program, s.log())
}

// command returns how the server is started.
func (s *S3Server) command(address string) *exec.Cmd {
	if filepath.Base(s.program) == "minio" {
		cmd := exec.Command(s.program, "server", "--address", address, "--quiet", s.Dir)
		cmd.Env = append(os.Environ(), "MINIO_ROOT_USER="+S3AccessKey, "MINIO_ROOT_PASSWORD="+S3SecretKey,
			"MINIO_SITE_REGION="+S3Region, "MINIO_BROWSER=off", "MINIO_UPDATE=off")
		return cmd
	}
	args := append([]string{"--port", address, "--access", S3AccessKey, "--secret", S3SecretKey, "--region", S3Region, "--keep-alive", "--quiet", "posix"}, s.args...)
	return exec.Command(s.program, append(args, s.Dir)...)
}

func (s *S3Server) pidFile() string { return filepath.Join(filepath.Dir(s.Dir), "pid") }

// Stop kills the server. What it has answered stays.
func (s *S3Server) Stop() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	_ = os.Remove(s.pidFile())
	s.process = nil
}

// Bucket makes an empty bucket.
func (s *S3Server) Bucket(t testing.TB) *Bucket {
	t.Helper()
	b := &Bucket{
		Server: s, Name: "b-" + strings.ToLower(rand.Text()), Endpoint: s.Endpoint,
		Region: S3Region, AccessKey: S3AccessKey, SecretKey: S3SecretKey,
	}
	if err := b.Client(t).MakeBucket(context.Background(), b.Name, minio.MakeBucketOptions{}); err != nil {
		t.Fatalf("make a bucket: %v\n%s", err, s.log())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the S3 server's log:\n%s", s.log())
		}
	})
	return b
}

// log returns the end of what the server printed.
func (s *S3Server) log() []byte {
	text, _ := os.ReadFile(filepath.Join(filepath.Dir(s.Dir), "log"))
	return text[max(len(text)-4<<10, 0):]
}

// Client returns a client of the bucket's server as such.
func (b *Bucket) Client(t testing.TB) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(strings.TrimPrefix(b.Endpoint, "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(b.AccessKey, b.SecretKey, ""), Region: b.Region,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
