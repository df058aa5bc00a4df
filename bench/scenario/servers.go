//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/berthregistry/berth/bench/content"
	"github.com/berthregistry/berth/bench/peer"
)

// servers are the processes of one peer. Only the ones that a scenario is busy with may use the
// processors; the others are paused.
type servers struct {
	peer     *peer.Peer
	dir      string // a folder of the peer's own
	profiles bool
	kept     map[string]*server
	made     int   // by next
	peak     int64 // bytes of memory that one of them has used at most
}

// server is one process and its content.
type server struct {
	*peer.Process
	dir    string
	filled []*content.Part
}

// keep returns the server of the given name with the given content. It is started when
// it is asked for the first time, and stays.
func (s *servers) keep(ctx context.Context, name string, parts ...*content.Part) (*server, error) {
	srv := s.kept[name]
	if srv == nil || srv.Exited() { // one that has crashed failed its scenario, not the ones that follow
		var err error
		if srv, err = s.start(ctx, name); err != nil {
			return nil, err
		}
		s.kept[name] = srv
	}
	srv.Resume()
	for _, p := range parts {
		if slices.Contains(srv.filled, p) {
			continue
		}
		if err := srv.fill(ctx, p); err != nil {
			return nil, srv.Failed(err)
		}
		srv.filled = append(srv.filled, p)
	}
	return srv, nil
}

// fill brings content to the server.
func (srv *server) fill(ctx context.Context, p *content.Part) error {
	switch srv.Peer.Kind {
	case peer.Registry:
		return p.Push(ctx, srv.Addr)
	case peer.ReadLimit:
		return p.Write(srv.Data)
	}
	return fmt.Errorf("%s takes no content", srv.Peer.Name)
}

// fresh returns a server that is empty, to be given to discard.
func (s *servers) fresh(ctx context.Context) (*server, error) {
	return s.start(ctx, fmt.Sprintf("fresh-%d", s.next()))
}

// next returns a number that it has not returned before.
func (s *servers) next() int {
	s.made++
	return s.made
}

func (s *servers) start(ctx context.Context, name string) (*server, error) {
	dir := filepath.Join(s.dir, name)
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	proc, err := s.peer.Start(ctx, peer.Options{Data: data, Conf: filepath.Join(dir, "conf"), Profiles: s.profiles})
	if err != nil {
		return nil, err
	}
	return &server{Process: proc, dir: dir}, nil
}

// discard stops a server and removes its files.
func (s *servers) discard(srv *server) error {
	return errors.Join(s.stop(srv), os.RemoveAll(srv.dir))
}

func (s *servers) stop(srv *server) error {
	srv.Resume()
	s.notePeak(srv)
	return srv.Stop()
}

func (s *servers) notePeak(srv *server) {
	if peak, err := srv.PeakEver(); err == nil { // a process that has died has none
		s.peak = max(s.peak, peak)
	}
}

// pause keeps all servers from disturbing those of another peer.
func (s *servers) pause() {
	for _, srv := range s.kept {
		s.notePeak(srv)
		srv.Pause()
	}
}

// close stops all servers and removes their files.
func (s *servers) close() error {
	var errs []error
	for _, srv := range s.kept {
		errs = append(errs, s.discard(srv))
	}
	s.kept = nil
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}
