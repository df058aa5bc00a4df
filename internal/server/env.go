package server

import (
	"fmt"
	"regexp"
	"strings"
)

// envPrefix begins the name of every environment variable that is Berth's.
const envPrefix = "BERTH_"

// envConfig names the variable that holds the path of the configuration file.
const envConfig = "BERTH_CONFIG"

// environment picks Berth's variables. One that is unknown is a problem, since
// it is a setting that someone believes to have made.
func environment(environ []string, all []setting) (map[string]string, []Problem) {
	known := []string{envConfig, "BERTH_REGISTRY", "BERTH_USER", "BERTH_PASSWORD"} // the latter are the command line's: its default registry, and who it signs in as
	for _, s := range all {
		known = append(known, s.env())
	}
	isKnown := make(map[string]bool, len(known))
	for _, k := range known {
		isKnown[k] = true
	}
	set := make(map[string]string)
	var problems []Problem
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case !strings.HasPrefix(name, envPrefix):
		case isKnown[name]:
			set[name] = value
		case !isServiceLink(name, value):
			problems = append(problems, Problem{Where: name, Message: fmt.Sprintf("there is no such setting%s", didYouMean(name, known))})
		}
	}
	return set, problems
}

// isServiceLink tells whether Kubernetes set a variable: it describes each
// Service of a namespace to all containers, so a Service called "berth" or "berth-web" gives
// BERTH_SERVICE_HOST, BERTH_PORT=tcp://10.0.0.1:5000, BERTH_WEB_PORT_80_TCP_ADDR and so on.
func isServiceLink(name, value string) bool {
	if strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://") {
		return true // BERTH_PORT=5000 is someone's mistake instead
	}
	// Compiled here, because next to nobody has such variables.
	return regexp.MustCompile(`_SERVICE_(HOST|PORT)(_|$)|_PORT_[0-9]+_(TCP|UDP|SCTP)(_|$)`).MatchString(name)
}
