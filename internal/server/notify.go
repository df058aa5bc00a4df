package server

import (
	"net"
	"os"
)

// notifyManager tells systemd, if it started this process as a service of
// Type=notify, what state the process is in: "READY=1" or "STOPPING=1"
// (sd_notify(3)). Nobody waits for an error, so there is none.
func notifyManager(state string) {
	name := os.Getenv("NOTIFY_SOCKET")
	if name == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = c.Write([]byte(state))
}
