package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	tables "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// page is a document on its way from Markdown to roff, in the macros of man(7). What it has no form for is an error, so that nothing is lost
// without notice.
type page struct {
	source []byte
	out    strings.Builder

	section   string // the heading of level 2 that it is in
	hasTables bool
}

// render returns the manual page for a Markdown document. comment and title are its first lines.
func render(source []byte, comment, title string) ([]byte, error) {
	doc := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(source))
	p := &page{source: source}
	for n := range children(doc) {
		if err := p.block(n); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	if p.hasTables {
		b.WriteString("'\\\" t\n") // asks man for the preprocessor tbl; must be the first line
	}
	fmt.Fprintf(&b, ".\\\" %s\n%s\n", comment, title)
	b.WriteString(".nh\n.ad l\n") // names of options and metrics are neither hyphenated nor spread
	b.WriteString(p.out.String())
	return b.Bytes(), nil
}

// children returns what a node consists of.
func children(n ast.Node) func(yield func(ast.Node) bool) {
	return func(yield func(ast.Node) bool) {
		for c := n.FirstChild(); c != nil && yield(c); c = c.NextSibling() {
		}
	}
}

// block writes a block of the top level.
func (p *page) block(n ast.Node) error {
	switch n := n.(type) {
	case *ast.Heading:
		return p.heading(n)
	case *ast.Paragraph:
		return p.paragraph(".PP", n)
	case *ast.FencedCodeBlock:
		p.out.WriteString(".PP\n")
		p.code(n)
		return nil
	case *ast.List:
		return p.list(n)
	case *tables.Table:
		p.hasTables = true
		p.out.WriteString(".PP\n")
		return p.table(n)
	case *ast.HTMLBlock:
		if bytes.HasPrefix(bytes.TrimSpace(n.Lines().Value(p.source)), []byte("<!--")) {
			return nil
		}
	}
	return p.unknown(n)
}

// unknown says which node cannot be written.
func (p *page) unknown(n ast.Node) error {
	return fmt.Errorf("section %s: the manual page has no form for a %s", p.section, n.Kind())
}

// heading writes that of a section, in capitals as is the custom, or of a subsection.
func (p *page) heading(n *ast.Heading) error {
	title, err := p.inline(n)
	if err != nil {
		return err
	}
	switch n.Level {
	case 2:
		p.section = title
		fmt.Fprintf(&p.out, ".SH \"%s\"\n", strings.ToUpper(title))
	case 3:
		fmt.Fprintf(&p.out, ".SS \"%s\"\n", title)
	default:
		return p.unknown(n)
	}
	return nil
}

// paragraph writes the text of n, or no more than the macro where there is none.
func (p *page) paragraph(macro string, n ast.Node) error {
	content, err := p.inline(n)
	if err != nil {
		return err
	}
	if p.section == "Name" {
		content = strings.Replace(content, " - ", ` \- `, 1) // what whatis(1) and apropos(1) look for
	}
	fmt.Fprintf(&p.out, "%s\n%s\n", macro, protect(content))
	return nil
}

// protect keeps lines of text from being taken for requests.
func protect(content string) string {
	lines := strings.Split(content, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// code writes a fenced block as it is, indented.
func (p *page) code(n *ast.FencedCodeBlock) {
	p.out.WriteString(".RS 4\n.nf\n")
	p.out.WriteString(protect(strings.TrimSuffix(literal(string(n.Lines().Value(p.source))), "\n")))
	p.out.WriteString("\n.fi\n.RE\n")
}

// list writes the items of a list; lists in it are indented.
func (p *page) list(n *ast.List) error {
	number := n.Start
	for item := range children(n) {
		macro := `.IP \(bu 2`
		if n.IsOrdered() {
			macro = fmt.Sprintf(".IP %d. 4", number)
			number++
		}
		if err := p.item(macro, item); err != nil {
			return err
		}
	}
	return nil
}

// item writes an item of a list, whose first paragraph macro begins.
func (p *page) item(macro string, item ast.Node) error {
	for n := range children(item) {
		var err error
		switch n := n.(type) {
		case *ast.TextBlock, *ast.Paragraph:
			err = p.paragraph(macro, n)
		case *ast.FencedCodeBlock:
			p.code(n)
		case *ast.List:
			p.out.WriteString(".RS 2\n")
			err = p.list(n)
			p.out.WriteString(".RE\n")
		default:
			err = p.unknown(n)
		}
		if err != nil {
			return err
		}
		macro = ".IP" // as far in as the first paragraph
	}
	return nil
}

// inline returns the text of a block: bold where it is strong or code, italic where it has emphasis.
func (p *page) inline(n ast.Node) (string, error) { return p.inFont(n, 'R') }

// inFont returns the content of n. font is the one around it, which is returned to after each change.
func (p *page) inFont(n ast.Node, font byte) (string, error) {
	var b strings.Builder
	for c := range children(n) {
		s, err := p.span(c, font)
		if err != nil {
			return "", err
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// span returns one piece of text.
func (p *page) span(n ast.Node, font byte) (string, error) {
	switch n := n.(type) {
	case *ast.Text:
		if !n.HardLineBreak() {
			return p.text(n), nil
		}
	case *ast.CodeSpan:
		var b strings.Builder
		for c := range children(n) {
			if t, ok := c.(*ast.Text); ok {
				b.Write(bytes.ReplaceAll(t.Value(p.source), []byte("\n"), []byte(" ")))
			}
		}
		return inFontB(literal(b.String()), font), nil
	case *ast.Emphasis:
		inner := byte('I')
		if n.Level == 2 {
			inner = 'B'
		}
		s, err := p.inFont(n, inner)
		return fmt.Sprintf(`\f%c%s\f%c`, inner, s, font), err
	case *ast.AutoLink:
		return angles(n.URL(p.source)), nil
	case *ast.Link:
		return p.link(n, font)
	}
	return "", p.unknown(n)
}

// inFontB returns s in bold.
func inFontB(s string, font byte) string { return fmt.Sprintf(`\fB%s\f%c`, s, font) }

// text returns a piece of plain text. Hyphens stay hyphens.
func (p *page) text(n *ast.Text) string {
	value := n.Value(p.source)
	if !n.IsRaw() {
		value = util.UnescapePunctuations(util.ResolveEntityNames(util.ResolveNumericReferences(value)))
	}
	s := strings.ReplaceAll(string(value), `\`, `\e`)
	if n.SoftLineBreak() {
		s += "\n"
	}
	return s
}

// link returns the text of a link and, where it leads out of the repository, the address.
func (p *page) link(n *ast.Link, font byte) (string, error) {
	s, err := p.inFont(n, font)
	if strings.Contains(string(n.Destination), "://") {
		s += " " + angles(n.Destination)
	}
	return s, err
}

// angles returns an address in angle brackets.
func angles(address []byte) string { return `\(la` + literal(string(address)) + `\(ra` }

// literals are the characters that roff turns into typographic ones, where they are to stay what they are.
var literals = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`)

// literal returns text that a reader may copy.
func literal(s string) string { return literals.Replace(s) }
