package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/yuin/goldmark/ast"
	tables "github.com/yuin/goldmark/extension/ast"
)

// A table fits into a terminal of 80 columns, of which man leaves 71 for text; and tbl draws a border and a blank on both sides of a column.
const (
	tableWidth = 70
	border     = 3
)

// table writes one for the preprocessor tbl. Its cells are text blocks in columns of a fixed width, so that long ones wrap.
func (p *page) table(n *tables.Table) error {
	var rows [][]string
	for row := range children(n) {
		var cells []string
		for cell := range children(row) {
			content, err := p.cell(cell, row)
			if err != nil {
				return err
			}
			cells = append(cells, content)
		}
		rows = append(rows, cells)
	}
	p.out.WriteString(".TS\nallbox;\n")
	for i, w := range columnWidths(rows) {
		if i > 0 {
			p.out.WriteByte(' ')
		}
		fmt.Fprintf(&p.out, "lw(%dn)", w)
	}
	p.out.WriteString(".\n")
	for _, cells := range rows {
		for i, content := range cells {
			if i > 0 {
				p.out.WriteByte('\t')
			}
			fmt.Fprintf(&p.out, "T{\n%s\nT}", protect(content))
		}
		p.out.WriteByte('\n')
	}
	p.out.WriteString(".TE\n.sp\n")
	return nil
}

// cell returns the text of a cell; those of the header are bold.
func (p *page) cell(cell, row ast.Node) (string, error) {
	if _, ok := row.(*tables.TableHeader); !ok {
		return p.inline(cell)
	}
	content, err := p.inFont(cell, 'B')
	return inFontB(content, 'R'), err
}

// columnWidths shares tableWidth out: a column gets what its longest cell needs, and where that is too much for all, those that need more than
// an equal share get equal shares of the rest, but none less than its longest word.
func columnWidths(rows [][]string) []int {
	widths, words := make([]int, len(rows[0])), make([]int, len(rows[0]))
	for _, cells := range rows {
		for i, content := range cells {
			widths[i] = max(widths[i], printed(content))
			for word := range strings.FieldsSeq(content) {
				words[i] = max(words[i], printed(word))
			}
		}
	}
	byWidth := make([]int, len(widths)) // the narrowest column first
	for i := range byWidth {
		byWidth[i] = i
	}
	slices.SortStableFunc(byWidth, func(a, b int) int { return widths[a] - widths[b] })
	left := tableWidth - border*len(widths)
	for done, i := range byWidth {
		share := left / (len(widths) - done)
		widths[i] = min(widths[i], max(share, words[i]))
		left -= widths[i]
	}
	return widths
}

// printed returns how many characters a piece of roff prints, about: changes of font print none, special characters one.
func printed(content string) int {
	n := 0
	for i := 0; i < len(content); i, n = i+1, n+1 {
		if content[i] != '\\' || i+1 == len(content) {
			continue
		}
		switch content[i+1] {
		case 'f':
			i, n = i+2, n-1
		case '(':
			i += 3
		default:
			i++
		}
	}
	return n
}
