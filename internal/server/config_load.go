package server

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Places are where settings come from. The zero value stands for none, which
// gives the default configuration.
type Places struct {
	File  string            // a YAML file; empty for what BERTH_CONFIG names, or none
	Env   []string          // "NAME=value", as os.Environ returns it
	Flags map[string]string // by the setting's key, what its flag was given
}

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Where   string // "berth.yaml:3", "BERTH_LISTEN" or "--listen"; empty if no place sets it
	Key     string // the setting; empty if the problem isn't one setting's
	Message string
}

// String returns the problem as one line.
func (p Problem) String() string {
	parts := []string{p.Where, p.Key, p.Message}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), ": ")
}

// ConfigError is a configuration that cannot be used.
type ConfigError struct{ Problems []Problem }

// Error lists the problems, one a line.
func (e *ConfigError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// maxConfig is the largest configuration file in bytes. It bounds what a wrong
// path, such as a disk image, can cost.
const maxConfig = 1 << 20

// Load reads the configuration from all places and checks it. The error is a
// *ConfigError that lists everything that is wrong.
func Load(from Places) (*Config, error) {
	c := Default()
	c.sources = make(map[string]string)
	all := c.settings()
	env, problems := environment(from.Env, all)

	file := cmp.Or(from.File, env[envConfig])
	if file != "" {
		problems = append(problems, c.readFile(file)...)
	}
	for _, s := range all {
		if text, ok := env[s.env()]; ok {
			c.sources[s.key] = s.env()
			problems = append(problems, setFrom(s.env(), s, text)...)
		}
	}
	for _, s := range all {
		if text, ok := from.Flags[s.key]; ok {
			place := "--" + FlagName(s.key)
			c.sources[s.key] = place
			problems = append(problems, setFrom(place, s, text)...)
		}
	}
	problems = append(problems, c.readSecrets(all)...)
	if len(problems) == 0 {
		// Checks of values that could not be read would only repeat the problem.
		problems = c.check()
	}
	if len(problems) > 0 {
		return nil, &ConfigError{problems}
	}
	return c, nil
}

func (c *Config) readFile(name string) []Problem {
	text, err := readSmall(name, maxConfig)
	if err != nil {
		return []Problem{{Message: fmt.Sprintf("read the configuration: %v", err)}}
	}
	return c.readYAML(name, text)
}

// readYAML sets what the text of a file sets.
func (c *Config) readYAML(name string, text []byte) []Problem {
	root, problem := parseYAML(text)
	if problem != nil {
		problem.Where = name + ":" + problem.Where
		return []Problem{*problem}
	}
	if root == nil {
		return nil
	}
	place := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d", name, n.Line) }
	d := &decoder{place: place, found: func(key string, n *yaml.Node) { c.sources[key] = place(n) }}
	d.section(root, reflect.ValueOf(c).Elem(), "")
	return d.problems
}

// setFrom sets s from a text that is not in a file: a list is separated by
// commas, a list of sections is written as YAML.
func setFrom(place string, s setting, text string) []Problem {
	switch {
	case isList(s.value.Type()):
		items := reflect.MakeSlice(s.value.Type(), 0, 0)
		for part := range strings.SplitSeq(text, ",") {
			part = strings.TrimSpace(part)
			if part == "" {
				continue
			}
			item := reflect.New(s.value.Type().Elem()).Elem()
			if err := setText(item, part); err != nil {
				return []Problem{{Where: place, Message: err.Error()}}
			}
			items = reflect.Append(items, item)
		}
		s.value.Set(items)
	case s.value.Kind() == reflect.Slice:
		root, problem := parseYAML([]byte(text))
		if problem != nil {
			return []Problem{{Where: place, Message: problem.Message}}
		}
		d := &decoder{place: func(*yaml.Node) string { return place }}
		if root == nil {
			s.value.SetZero()
			return nil
		}
		d.value(root, s.value, s.key)
		return d.problems
	default:
		if err := setText(s.value, text); err != nil {
			return []Problem{{Where: place, Message: err.Error()}}
		}
	}
	return nil
}

// maxSecret is the largest file that holds a secret, in bytes.
const maxSecret = 64 << 10

// readSecrets replaces file:PATH by what the file holds, without the line break
// that editors leave at its end.
func (c *Config) readSecrets(all []setting) []Problem {
	var problems []Problem
	for _, s := range all {
		for _, secret := range secretsOf(s.value) {
			path, ok := strings.CutPrefix(secret.Reveal(), "file:")
			if !ok {
				continue
			}
			b, err := readSmall(path, maxSecret)
			value := strings.TrimRight(string(b), "\r\n")
			if err == nil && value == "" {
				err = fmt.Errorf("%s is empty", path)
			}
			if err != nil {
				problems = append(problems, c.problem(s.key, fmt.Sprintf("read the secret: %v", err)))
				continue
			}
			*secret = NewSecret(value)
		}
	}
	return problems
}

// secretsOf returns the secrets of a setting: itself, or those of the items of a list of sections.
func secretsOf(v reflect.Value) (all []*Secret) {
	if s, ok := v.Addr().Interface().(*Secret); ok {
		return []*Secret{s}
	}
	if v.Kind() != reflect.Slice || isList(v.Type()) {
		return nil
	}
	for i := range v.Len() {
		for j := range v.Index(i).NumField() {
			all = append(all, secretsOf(v.Index(i).Field(j))...)
		}
	}
	return all
}

// readSmall reads a file of at most limit bytes.
func readSmall(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %s", name, Size(limit))
	}
	return b, err
}
