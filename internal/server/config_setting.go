package server

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// setting is one leaf of Config: what has a name of its own in the
// environment.
type setting struct {
	key   string        // such as "limits.manifest"
	owner reflect.Type  // the struct that the field is in
	field string        // the field's name in Go
	value reflect.Value // addressable, so that it can be set
}

// env returns the name of the environment variable that sets s.
func (s setting) env() string { return envName(s.key) }

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// FlagName returns the name of the flag that sets the setting of this key, if
// the command has one.
func FlagName(key string) string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(key)
}

// settings lists the leaves of a struct in their order, below a prefix that is
// empty or ends with a dot.
func settings(v reflect.Value, prefix string) []setting {
	var out []setting
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		if isSection(f.Type) {
			out = append(out, settings(v.Field(i), prefix+name+".")...)
			continue
		}
		out = append(out, setting{key: prefix + name, owner: v.Type(), field: f.Name, value: v.Field(i)})
	}
	return out
}

// settings lists what c consists of.
func (c *Config) settings() []setting { return settings(reflect.ValueOf(c).Elem(), "") }

// isSection tells a struct of settings from a value that happens to be a struct.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// isList tells whether t is a list of values, each of which is one text.
func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice && !isSection(t.Elem()) }

// setText sets a scalar from its text.
func setText(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		switch text {
		case "true", "false":
			v.SetBool(text == "true")
		default:
			return fmt.Errorf("%q must be true or false", clip([]byte(text)))
		}
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q must be a whole number", clip([]byte(text)))
		}
		v.SetInt(int64(n))
	default:
		return errors.New("this must be a list")
	}
	return nil
}

// text is the inverse of setText.
func text(v reflect.Value) string {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := m.MarshalText(); err == nil {
			return string(b)
		}
	}
	return fmt.Sprint(v.Interface())
}
