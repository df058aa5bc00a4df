package server

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration of zero or more, written as 90s, 1h30m or 7d.
type Duration time.Duration

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

// orNever returns the interval of a job, for which 0 stands for never.
func (d Duration) orNever() time.Duration {
	if d == 0 {
		return 100 * 365 * 24 * time.Hour
	}
	return d.D()
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	var days int64
	if n, rest, ok := strings.Cut(s, "d"); ok {
		var err error
		if days, err = strconv.ParseInt(n, 10, 64); err != nil || days < 0 || days > 36500 {
			return badDuration(b)
		}
		s = rest
		if s == "" {
			s = "0"
		}
	}
	rest, err := time.ParseDuration(s)
	if err != nil || strings.ContainsAny(s, "+-") {
		return badDuration(b)
	}
	sum := time.Duration(days)*24*time.Hour + rest
	if sum < rest {
		return badDuration(b)
	}
	*d = Duration(sum)
	return nil
}

func badDuration(b []byte) error {
	return fmt.Errorf("%q is not a duration: write a number with its unit, such as 30s, 5m, 24h or 7d", clip(b))
}

// String returns the shortest form that reads back as d.
func (d Duration) String() string {
	const day = Duration(24 * time.Hour)
	if d == 0 {
		return "0"
	}
	if d > day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.D().String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is a count of bytes, written as 10GiB, 512KiB, 10GB or 4096.
type Size int64

// sizeUnits are the units of Size, the powers of 1024 first and from large to small.
// A list, not a map, so that String takes the first that fits.
var sizeUnits = [...]struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(b []byte) error {
	number, unit := strings.TrimSpace(string(b)), int64(1)
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimRight(n, " "), u.bytes
			break
		}
	}
	whole, fraction, isFraction := strings.Cut(number, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || isFraction && fraction == "" {
		return badSize(b)
	}
	high, low := bits.Mul64(n, uint64(unit))
	if high != 0 || low > math.MaxInt64/2 {
		return errors.New("this is more than any disk holds")
	}
	if isFraction && unit == 1 {
		return badSize(b)
	}
	if isFraction {
		f, err := strconv.ParseUint(fraction, 10, 20) // six digits are plenty
		if err != nil {
			return badSize(b)
		}
		low += uint64(float64(f) / math.Pow10(len(fraction)) * float64(unit))
	}
	*s = Size(low)
	return nil
}

func badSize(b []byte) error {
	return fmt.Errorf("%q is not a size: write a number of bytes, or one with a unit, such as 512KiB, 4MiB or 10GB", clip(b))
}

// String returns the size in the largest unit that shows it exactly.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Reserve is a part of a file system, written as 1GiB, 5% or "1GiB or 5%".
// The smaller of the two counts; a part that is 0 is not set.
type Reserve struct {
	Bytes   Size
	Percent float64
}

// Of returns the reserve on a file system that holds total bytes.
func (r Reserve) Of(total int64) int64 {
	share := int64(r.Percent / 100 * float64(total))
	switch {
	case r.Percent == 0:
		return int64(r.Bytes)
	case r.Bytes == 0:
		return share
	}
	return min(int64(r.Bytes), share)
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Reserve) UnmarshalText(b []byte) error {
	size, share, both := strings.Cut(string(b), " or ")
	if !both && strings.HasSuffix(size, "%") {
		size, share = "0", size
	}
	var v Reserve
	if err := v.Bytes.UnmarshalText([]byte(size)); err != nil {
		return badReserve(b)
	}
	if share != "" {
		n, ok := strings.CutSuffix(strings.TrimSpace(share), "%")
		p, err := strconv.ParseFloat(n, 64)
		if !ok || err != nil || !(p >= 0 && p < 100) {
			return badReserve(b)
		}
		v.Percent = p
	}
	if both && (v.Bytes == 0 || v.Percent == 0) {
		return badReserve(b)
	}
	*r = v
	return nil
}

func badReserve(b []byte) error {
	return fmt.Errorf("%q is not a part of a disk: write 10GiB, 5%%, or \"10GiB or 5%%\" for the smaller of both", clip(b))
}

// String returns the form that UnmarshalText reads.
func (r Reserve) String() string {
	share := strconv.FormatFloat(r.Percent, 'f', -1, 64) + "%"
	switch {
	case r.Percent == 0:
		return r.Bytes.String()
	case r.Bytes == 0:
		return share
	}
	return r.Bytes.String() + " or " + share
}

// MarshalText implements encoding.TextMarshaler.
func (r Reserve) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
