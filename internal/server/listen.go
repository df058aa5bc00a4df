package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// listen binds a. The refusal is asked with the very address that is bound, so that a
// host name cannot mean one address to it and another one to the kernel.
func listen(ctx context.Context, a Address, refuse func(Address, netip.Addr) error) (net.Listener, error) {
	if path, ok := a.Unix(); ok {
		return listenUnix(ctx, path)
	}
	host, port, err := net.SplitHostPort(string(a))
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", a, err)
	}
	ip, known := a.literal()
	if !known {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", a, err)
		}
		ip = preferIPv4(ips)
		host = ip.String()
	}
	if err := refuse(a, ip); err != nil {
		return nil, err
	}
	// An empty host binds IPv6 and IPv4 at once, or IPv4 alone where there is no IPv6.
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	return l, nil
}

// preferIPv4 picks one address of a name. For localhost it is 127.0.0.1, which every client
// tries.
func preferIPv4(ips []netip.Addr) netip.Addr {
	for _, ip := range ips {
		if ip.Unmap().Is4() {
			return ip.Unmap()
		}
	}
	return ips[0]
}

// listenUnix binds a Unix socket that the process's user and group can connect to.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(ctx, path) {
		// A process that was killed leaves its socket behind.
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on unix:%s: remove the socket that a dead process left: %w", path, err)
		}
		l, err = new(net.ListenConfig).Listen(ctx, "unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return l, nil
}

// abandoned tells whether path is a socket that no process listens on.
func abandoned(ctx context.Context, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		_ = c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
