package server

import (
	"encoding"
	"testing"
	"time"
)

func TestUnitsReadAndShow(t *testing.T) {
	for _, tt := range []struct {
		in    string
		value encoding.TextUnmarshaler
		want  string // what it shows as, empty if it is no such value
	}{
		{"0", new(Duration), "0"},
		{"90s", new(Duration), "1m30s"},
		{"60s", new(Duration), "1m"},
		{"1h0m1s", new(Duration), "1h0m1s"},
		{"24h", new(Duration), "24h"},
		{"1d", new(Duration), "24h"},
		{"7d", new(Duration), "7d"},
		{"1d12h", new(Duration), "36h"},
		{"1.5h", new(Duration), "1h30m"},
		{"250ms", new(Duration), "250ms"},
		{"", new(Duration), ""},
		{"10", new(Duration), ""},
		{"-1s", new(Duration), ""},
		{"-1d", new(Duration), ""},
		{"1d-1s", new(Duration), ""},
		{"d", new(Duration), ""},
		{"1.5d", new(Duration), ""},
		{"99999999d", new(Duration), ""},
		{"36500d2562047h", new(Duration), ""},

		{"0", new(Size), "0"},
		{"4096", new(Size), "4KiB"},
		{"4095", new(Size), "4095"},
		{"4MiB", new(Size), "4MiB"},
		{"4 MiB", new(Size), "4MiB"},
		{"1.5GiB", new(Size), "1536MiB"},
		{"10GB", new(Size), "9765625KiB"},
		{"1kB", new(Size), "1000"},
		{"7B", new(Size), "7"},
		{"", new(Size), ""},
		{"MiB", new(Size), ""},
		{"-1", new(Size), ""},
		{"+1", new(Size), ""},
		{"1.5", new(Size), ""},
		{"1.MiB", new(Size), ""},
		{"1.12345678MiB", new(Size), ""},
		{"10Gi", new(Size), ""},
		{"10G", new(Size), ""},
		{"1e3", new(Size), ""},
		{"9999999TiB", new(Size), ""},
		{"99999999999999999999", new(Size), ""},

		{"0", new(Reserve), "0"},
		{"10GiB", new(Reserve), "10GiB"},
		{"5%", new(Reserve), "5%"},
		{"2.5%", new(Reserve), "2.5%"},
		{"1GiB or 5%", new(Reserve), "1GiB or 5%"},
		{"100%", new(Reserve), ""},
		{"-1%", new(Reserve), ""},
		{"NaN%", new(Reserve), ""},
		{"5% or 1GiB", new(Reserve), ""},
		{"0 or 5%", new(Reserve), ""},
		{"1GiB or 2GiB", new(Reserve), ""},
		{"1GiB or", new(Reserve), ""},
		{"", new(Reserve), ""},
	} {
		err := tt.value.UnmarshalText([]byte(tt.in))
		if (err == nil) != (tt.want != "") {
			t.Errorf("%T %q: %v", tt.value, tt.in, err)
			continue
		}
		if err != nil {
			continue
		}
		b, err := tt.value.(encoding.TextMarshaler).MarshalText()
		if err != nil || string(b) != tt.want {
			t.Errorf("%T %q shows as %q, %v; want %q", tt.value, tt.in, b, err, tt.want)
		}
	}
	var d Duration
	if err := d.UnmarshalText([]byte("2d1h")); err != nil || d.D() != 49*time.Hour {
		t.Errorf("2d1h is %v, %v", d.D(), err)
	}
}

func TestReserveOf(t *testing.T) {
	const gib = 1 << 30
	both := Reserve{Bytes: gib, Percent: 5}
	for _, tt := range []struct {
		r           Reserve
		total, want int64
	}{
		{both, 1000 * gib, gib},
		{both, 10 * gib, gib / 2},
		{Reserve{Bytes: 2 * gib}, gib, 2 * gib},
		{Reserve{Percent: 50}, 1000, 500},
		{Reserve{}, gib, 0},
	} {
		if got := tt.r.Of(tt.total); got != tt.want {
			t.Errorf("%s of %d is %d, want %d", tt.r, tt.total, got, tt.want)
		}
	}
}

func TestAddresses(t *testing.T) {
	for in, ok := range map[string]bool{
		"": true, "127.0.0.1:5000": true, "[::1]:5000": true, ":5000": true, ":0": true, "localhost:5000": true, "registry.local:80": true,
		"unix:/run/berth.sock": true, "unix:berth.sock": true,
		"unix:": false, "5000": false, "::1:5000": false, "localhost": false, "localhost:": false, "localhost:http": false,
		"localhost:70000": false, "http://localhost:5000": false, "127.0.0.1:5000/v2": false,
	} {
		var a Address
		if err := a.UnmarshalText([]byte(in)); (err == nil) != ok {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestURLs(t *testing.T) {
	for in, want := range map[string]string{
		"https://r.example": "https://r.example", "https://r.example/": "https://r.example", "http://[::1]:5000": "http://[::1]:5000", "": "",
		"r.example": "error", "ftp://r.example": "error", "https://": "error", "https://u:p@r.example": "error",
		"https://r.example/x": "error", "https://r.example?x": "error", "https://r.example?": "error", "https://r.example#x": "error",
	} {
		var u URL
		if err := u.UnmarshalText([]byte(in)); (err != nil) != (want == "error") || err == nil && string(u) != want {
			t.Errorf("%q gives %q, %v", in, u, err)
		}
	}
}
