// Package report turns what was measured into medians, ratios and verdicts, and prints
// them.
//
// Rates move from run to run with whatever else the machine does; runs that follow each other
// closely move together. So ratios are taken between the runs of one round, and the
// median of those ratios is what goals are held against.
package report

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Subject is the server whose goals are checked.
const Subject = "berth"

// Report is the outcome of a whole run.
type Report struct {
	Date    time.Time         `json:"date"`
	Machine Machine           `json:"machine"`
	Quick   bool              `json:"quick"` // sizes and times are reduced: goals do not apply
	Rounds  int               `json:"rounds"`
	Servers map[string]string `json:"servers"` // name to version
	Rows    []*Row            `json:"rows"`
	Notes   []string          `json:"notes,omitempty"`
}

// Machine is where it ran.
type Machine struct {
	Processor  string `json:"processor"`
	Cores      int    `json:"cores"`
	MemoryMiB  int64  `json:"memory_mib"`
	Kernel     string `json:"kernel"`
	FileSystem string `json:"file_system"`
	Congestion string `json:"tcp_congestion_control"`
}

// String describes the machine.
func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d MiB of memory, Linux %s, %s, TCP with %s", m.Processor, m.Cores, m.MemoryMiB, m.Kernel, m.FileSystem, m.Congestion)
}

// Row is one figure of one scenario, of all servers.
type Row struct {
	Scenario string `json:"scenario"`
	Title    string `json:"title"`
	Unit     string `json:"unit"`
	// Limit is the server that shows what the machine allows, or "".
	Limit string `json:"limit,omitempty"`
	Goals []Goal `json:"goals,omitempty"`

	// Samples holds one figure for each round, NaN-free and in order, by server.
	Samples map[string][]float64 `json:"samples"`
	// Failed says why a server has no figure.
	Failed map[string]string `json:"failed,omitempty"`
	// Cost says, for rows that are the main figure of their scenario, where time went.
	Cost map[string]Cost `json:"cost,omitempty"`
}

// Cost is what a scenario took of the machine, as processors in use on average.
type Cost struct {
	Server float64 `json:"server_cores"`
	Client float64 `json:"client_cores"`
	// Other is everything else that ran: the kernel's own threads, and what disturbs.
	Other float64 `json:"other_cores"`
	// Processor time for one operation, in microseconds.
	ServerPerOp float64 `json:"server_us_per_operation"`
	ClientPerOp float64 `json:"client_us_per_operation"`
}

// Add records the figure of one run.
func (r *Row) Add(server string, value float64) {
	if r.Samples == nil {
		r.Samples = make(map[string][]float64)
	}
	r.Samples[server] = append(r.Samples[server], value)
}

// disturbed is from how many processors on, used by others, figures are not to be trusted. The
// kernel's own threads, which write files back, stay below.
const disturbed = 0.4

// Disturbances lists the scenarios during which something else used the machine, too.
func (r *Report) Disturbances() []string {
	var out []string
	for _, row := range r.Rows {
		for _, server := range slices.Sorted(maps.Keys(row.Cost)) {
			if other := row.Cost[server].Other; other > disturbed {
				out = append(out, fmt.Sprintf("%s, %s: others used %.1f processors", row.Title, server, other))
			}
		}
	}
	return out
}

// Fail records that a server could not be measured. Figures of earlier rounds are dropped.
func (r *Row) Fail(server string, err error) {
	if r.Failed == nil {
		r.Failed = make(map[string]string)
	}
	r.Failed[server] = err.Error()
	delete(r.Samples, server)
}

// Value returns the median of a server's figures; ok is false if it has none.
func (r *Row) Value(server string) (v float64, ok bool) {
	s := r.Samples[server]
	if len(s) == 0 {
		return 0, false
	}
	return Median(s), true
}

// Ratio is a figure of one server divided by that of another.
type Ratio struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// String returns the ratio and how far its rounds are apart.
func (r Ratio) String() string {
	return fmt.Sprintf("%s (%s–%s)", figure(r.Median), figure(r.Min), figure(r.Max))
}

// Ratio compares two servers, round by round; ok is false if either has no figures.
func (r *Row) Ratio(server, against string) (ratio Ratio, ok bool) {
	a, b := r.Samples[server], r.Samples[against]
	n := min(len(a), len(b))
	if n == 0 {
		return Ratio{}, false
	}
	all := make([]float64, n)
	for i := range n {
		all[i] = a[i] / b[i]
	}
	return Ratio{Median(all), slices.Min(all), slices.Max(all)}, true
}

// Median returns the middle of s, which must not be empty.
func Median(s []float64) float64 { return Quantile(s, 0.5) }

// Quantile returns the value below which the share q of s lies, between neighbours by
// interpolation. s must not be empty.
func Quantile(s []float64, q float64) float64 {
	s = slices.Sorted(slices.Values(s))
	at := q * float64(len(s)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(s)-1)
	return s[low] + (s[high]-s[low])*(at-float64(low))
}

// MarshalJSON adds what follows from the samples.
func (r *Row) MarshalJSON() ([]byte, error) {
	type plain Row
	out := struct {
		*plain
		Medians map[string]float64 `json:"medians"`
		Ratios  map[string]Ratio   `json:"ratios"` // of Subject, to each other server
		Met     Verdict            `json:"met"`
	}{plain: (*plain)(r), Medians: make(map[string]float64), Ratios: make(map[string]Ratio)}
	for server, samples := range r.Samples {
		out.Medians[server] = Median(samples)
		if ratio, ok := r.Ratio(Subject, server); ok && server != Subject {
			out.Ratios[server] = ratio
		}
	}
	out.Met, _ = r.Verdict()
	return json.Marshal(out)
}
