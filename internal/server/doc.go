// Package server is the running process: its configuration, its listeners and
// its life from the first lock to the last answer.
//
// What holds true: a Config that Load returned is valid as a whole; one
// process at a time uses a data folder; nothing is served beyond the machine
// unless the configuration says so; a request that was accepted is answered
// before the process ends, within timeouts.stop; what serves a connection without TLS, http1 or
// net/http, has the kernel's own (*net.TCPConn or *net.UnixConn), so that files are sent
// without copying them.
package server
