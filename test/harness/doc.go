// Package harness is what the tests around the berth binary share: it builds and
// starts the server, finds the real clients, makes images, and records what client
// and server say to each other.
//
// A test package calls Main from its TestMain. What the functions start ends with
// the test that started it, or with Main.
package harness
