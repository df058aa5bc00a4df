// Package load sends HTTP/1.1 requests as cheaply as it can, because the load
// generator shares its processors with the server that it measures: what it
// spends is missing from every rate.
//
// A client is a Script, straight-line code that sends one request after
// another over one keep-alive connection. Hundreds of them share one loop over
// epoll, each as a coroutine, so that a request costs about one write, one
// read and a share of one epoll_wait. Requests are bytes prepared beforehand; of an answer
// only the status, the length and the headers that a script asks for are looked at.
//
// It is made for servers on loopback that are known to answer correctly: it
// speaks no TLS, follows no redirect, and takes every surprise for an error.
package load
