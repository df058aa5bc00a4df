package blob

import (
	"crypto/rand"
	"strings"
	"time"
)

// HourLayout is the form of the hour in UTC with which a store's keys begin, for time.Format.
// Sorted as text, hours are in order.
const HourLayout = "20060102/15"

// NewKey returns a key of an hour, given in HourLayout, that nobody has seen before: what
// follows the hour holds 130 random bits.
func NewKey(hour string) string { return hour + "/" + rand.Text() }

// KeyHour returns the hour of a key that NewKey could have made. ok is false for other keys.
func KeyHour(key string) (hour time.Time, ok bool) {
	const n = len(HourLayout)
	if len(key) != n+1+26 || key[n] != '/' || strings.ContainsFunc(key[n+1:], notBase32) {
		return time.Time{}, false
	}
	hour, err := time.Parse(HourLayout, key[:n])
	return hour, err == nil
}

func notBase32(r rune) bool { return (r < 'A' || r > 'Z') && (r < '2' || r > '7') }
