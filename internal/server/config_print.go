package server

import (
	"bytes"
	_ "embed" // the source of Config is the text of its manual
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"maps"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

//go:embed config.go
var configSource []byte

//go:embed config_auth.go
var authSource []byte

//go:embed config_rate.go
var rateSource []byte

// settingDocs returns the comment of every field that is a setting.
func settingDocs() map[string]string {
	docs := fieldDocs(configSource)
	maps.Copy(docs, fieldDocs(authSource))
	maps.Copy(docs, fieldDocs(rateSource))
	return docs
}

// Print writes c as YAML that Load reads, each setting below its description and
// beside the place that its value comes from. Secrets stay hidden.
func (c *Config) Print(w io.Writer) error {
	p := &printer{docs: settingDocs(), sources: c.sources}
	p.comment("", "Everything"+strings.TrimPrefix(p.docs["Config"], "Config is everything"))
	if err := p.section(reflect.ValueOf(c).Elem(), ""); err != nil {
		return err
	}
	_, err := p.out.WriteTo(w)
	return err
}

type printer struct {
	out     bytes.Buffer
	docs    map[string]string
	sources map[string]string
}

func (p *printer) section(v reflect.Value, prefix string) error {
	indent := strings.Repeat("  ", strings.Count(prefix, "."))
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		p.out.WriteByte('\n')
		p.comment(indent, p.docs[v.Type().Name()+"."+f.Name])
		if isSection(f.Type) {
			fmt.Fprintf(&p.out, "%s%s:\n", indent, name)
			if err := p.section(v.Field(i), prefix+name+"."); err != nil {
				return err
			}
			continue
		}
		if err := p.setting(indent, name, prefix+name, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

func (p *printer) setting(indent, name, key string, v reflect.Value) error {
	source := "default"
	if s, ok := p.sources[key]; ok {
		source = strings.Join(strings.Fields(s), " ") // a file's name may hold a line break
	}
	if s, ok := v.Interface().(Secret); ok && s.IsSet() {
		// A comment, or reading the output back would set the placeholder.
		fmt.Fprintf(&p.out, "%s# %s: %s # %s\n", indent, name, s, source)
		return nil
	}
	if v.Kind() == reflect.Slice && !isList(v.Type()) && v.Len() > 0 {
		b, err := yaml.Dump(sequence(v), yaml.WithCompactSeqIndent(false))
		if err != nil {
			return fmt.Errorf("print %s: %w", key, err)
		}
		fmt.Fprintf(&p.out, "%s%s: # %s\n", indent, name, source)
		for line := range strings.Lines(string(b)) {
			p.out.WriteString(indent + "  " + line)
		}
		return nil
	}
	b, err := yaml.Dump(value(v), yaml.WithLineWidth(-1))
	if err != nil {
		return fmt.Errorf("print %s: %w", key, err)
	}
	fmt.Fprintf(&p.out, "%s%s: %s # %s\n", indent, name, bytes.TrimSpace(b), source)
	return nil
}

func (p *printer) comment(indent, text string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\t", "  ")) {
		p.out.WriteString(strings.TrimRight(indent+"# "+strings.TrimSuffix(line, "\n"), " ") + "\n")
	}
}

// value returns the node of one setting: a scalar, or a list on one line.
func value(v reflect.Value) *yaml.Node {
	if v.Kind() == reflect.Slice {
		n := sequence(v)
		n.Style = yaml.FlowStyle
		return n
	}
	switch v.Kind() {
	case reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: text(v)}
	case reflect.Int: // counts; sizes and durations are int64 with units
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: text(v)}
	}
	// The tag makes the encoder quote what would otherwise be read as another type.
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text(v)}
}

func sequence(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range v.Len() {
		item := v.Index(i)
		if !isSection(item.Type()) {
			n.Content = append(n.Content, value(item))
			continue
		}
		m := &yaml.Node{Kind: yaml.MappingNode}
		for j := range item.NumField() {
			f := item.Type().Field(j)
			name := f.Tag.Get("yaml")
			if _, optional := f.Tag.Lookup("optional"); optional && item.Field(j).IsZero() {
				continue
			}
			if s, ok := item.Field(j).Interface().(Secret); ok {
				m.HeadComment = name + ": " + s.String() // or reading the output back would set the placeholder
				continue
			}
			m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, value(item.Field(j)))
		}
		n.Content = append(n.Content, m)
	}
	return n
}

// fieldDocs returns the comments of the types in a Go file, by "Type", and of
// their fields, by "Type.Field".
func fieldDocs(source []byte) map[string]string {
	docs := make(map[string]string)
	// The compiler has accepted this very source, so there is no error.
	file, _ := parser.ParseFile(token.NewFileSet(), "", source, parser.ParseComments|parser.SkipObjectResolution)
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			spec := spec.(*ast.TypeSpec)
			docs[spec.Name.Name] = gen.Doc.Text()
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range fields.Fields.List {
				for _, name := range f.Names {
					docs[spec.Name.Name+"."+name.Name] = f.Doc.Text()
				}
			}
		}
	}
	return docs
}
