package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder sets values from YAML nodes. It goes on after a problem, so that one
// run of "berth config check" shows all of them.
type decoder struct {
	place    func(*yaml.Node) string // where a node stands, such as "berth.yaml:3"
	found    func(key string, n *yaml.Node)
	problems []Problem
}

func (d *decoder) fail(n *yaml.Node, key, format string, args ...any) {
	d.problems = append(d.problems, Problem{Where: d.place(n), Key: key, Message: fmt.Sprintf(format, args...)})
}

// parseYAML returns the root of the only document in text, or nil if there is
// nothing in it. A problem has the line in its Where.
func parseYAML(text []byte) (*yaml.Node, *Problem) {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return nil, &Problem{Where: "1", Message: err.Error()}
	}
	var docs [2]yaml.Node
	for i := range docs {
		if err := loader.Load(&docs[i]); err == io.EOF {
			break
		} else if err != nil {
			return nil, syntaxProblem(err)
		}
	}
	if !docs[1].IsZero() {
		return nil, &Problem{Where: strconv.Itoa(docs[1].Line), Message: "a second document begins here: a configuration is one document"}
	}
	if docs[0].IsZero() || len(docs[0].Content) == 0 || isNull(docs[0].Content[0]) {
		return nil, nil
	}
	return docs[0].Content[0], nil
}

// syntaxProblem says where the text stops being YAML.
func syntaxProblem(err error) *Problem {
	e, ok := errors.AsType[*yaml.LoadError](err)
	if !ok {
		return &Problem{Where: "1", Message: err.Error()}
	}
	message := e.Message
	if e.ContextMsg != "" {
		message += " " + e.ContextMsg
		if e.ContextMark.Line > 0 && e.ContextMark.Line != e.Mark.Line {
			message += fmt.Sprintf(" that begins in line %d", e.ContextMark.Line)
		}
	}
	return &Problem{Where: strconv.Itoa(max(e.Mark.Line, 1)), Message: message}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// section sets the fields of the struct v from a mapping. The prefix of their
// keys is empty or ends with a dot.
func (d *decoder) section(n *yaml.Node, v reflect.Value, prefix string) {
	n = resolve(n)
	if isNull(n) {
		return // a section whose keys are all commented out
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n, strings.TrimSuffix(prefix, "."), "this must be a section of settings, \"name: value\"")
		return
	}
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		key := prefix + name.Value
		field := fieldOf(v, name.Value)
		if name.Kind != yaml.ScalarNode || !field.IsValid() {
			d.fail(name, key, "there is no such setting%s", didYouMean(key, d.known(v, prefix)))
			continue
		}
		if line, again := seen[name.Value]; again {
			d.fail(name, key, "this is set twice, first in line %d", line)
			continue
		}
		seen[name.Value] = name.Line
		d.value(value, field, key)
	}
}

// known lists the keys that could be meant by an unknown one.
func (d *decoder) known(v reflect.Value, prefix string) []string {
	var keys []string
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("yaml"); name != "" {
			keys = append(keys, prefix+name)
		}
	}
	if v.Type() == reflect.TypeFor[Config]() {
		for _, s := range settings(v, "") {
			keys = append(keys, s.key)
		}
	}
	return keys
}

func fieldOf(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if tag := v.Type().Field(i).Tag.Get("yaml"); tag != "" && tag == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

// value sets one field. The depth of recursion is that of Config, whatever the
// document holds.
func (d *decoder) value(n *yaml.Node, v reflect.Value, key string) {
	n = resolve(n)
	switch {
	case isSection(v.Type()):
		d.section(n, v, key+".")
		return
	case v.Kind() == reflect.Slice:
		d.list(n, v, key)
	case n.Kind != yaml.ScalarNode:
		d.fail(n, key, "this must be one value, not a list or a section")
	case isNull(n):
		d.fail(n, key, "there is no value: remove the key, or write \"\" for an empty one")
	default:
		if err := setText(v, n.Value); err != nil {
			d.fail(n, key, "%v", err)
		}
	}
	if d.found != nil {
		d.found(key, n)
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, key string) {
	v.SetZero()
	if isNull(n) {
		return // a list whose items are all commented out
	}
	if n.Kind != yaml.SequenceNode {
		d.fail(n, key, "this must be a list")
		return
	}
	items := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		item = resolve(item)
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case isSection(v.Type().Elem()):
			if isNull(item) {
				d.fail(item, at, "there is no value")
				continue
			}
			d.section(item, items.Index(i), at+".")
			d.complete(item, items.Index(i), at)
		case item.Kind != yaml.ScalarNode || isNull(item):
			d.fail(item, at, "this must be one value")
		default:
			if err := setText(items.Index(i), item.Value); err != nil {
				d.fail(item, at, "%v", err)
			}
		}
	}
	v.Set(items)
}

// complete checks that an item of a list has all its keys but optional ones: unlike sections, items
// have no defaults.
func (d *decoder) complete(n *yaml.Node, v reflect.Value, at string) {
	if n.Kind != yaml.MappingNode {
		return // already said
	}
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		_, has := v.Type().Field(i).Tag.Lookup("optional")
		for k := 0; k < len(n.Content); k += 2 {
			has = has || n.Content[k].Value == name
		}
		if !has {
			d.fail(n, at, "%q is missing", name)
		}
	}
}

// resolve follows an alias to the node that its anchor names.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}
