package main

import (
	"strings"
	"testing"
)

func TestRender(t *testing.T) {
	tests := []struct {
		name, markdown, want string
	}{
		{"headings", "## See Also\n\n### Sub *part*\n", ".SH \"SEE ALSO\"\n.SS \"Sub \\fIpart\\fR\"\n"},
		{"paragraphs", "one\ntwo\n\nthree\n", ".PP\none\ntwo\n.PP\nthree\n"},
		{"fonts", "*a* and **B...** and `c-d` and *`e`* and **`f` g**", ".PP\n\\fIa\\fR and \\fBB...\\fR and \\fBc\\-d\\fR and \\fI\\fBe\\fI\\fR and \\fB\\fBf\\fB g\\fR\n"},
		{"hyphens", "re-sent -x `-x`", ".PP\nre-sent -x \\fB\\-x\\fR\n"},
		{"backslash", "a\\b `c\\d` \\* &lt;", ".PP\na\\eb \\fBc\\ed\\fR * <\n"},
		{"requests", ".SH x\n'y\n", ".PP\n\\&.SH x\n\\&'y\n"},
		{"code", "~~~ corefile\n. {\n    'a' ^~`-\\\n\n}\n~~~\n", ".PP\n.RS 4\n.nf\n\\&. {\n    \\(aqa\\(aq \\(ha\\(ti\\(ga\\-\\e\n\n}\n.fi\n.RE\n"},
		{"links", "[a *b*](https://x.example/y-z), <https://w.example>, [c](docs/c.md), [d](#d)", ".PP\na \\fIb\\fR \\(lahttps://x.example/y\\-z\\(ra, \\(lahttps://w.example\\(ra, c, d\n"},
		{"list", "* a\n  b\n* c\n", ".IP \\(bu 2\na\nb\n.IP \\(bu 2\nc\n"},
		{"numbers", "3. a\n4. b\n", ".IP 3. 4\na\n.IP 4. 4\nb\n"},
		{"nested list", "* a\n  * b\n* c\n", ".IP \\(bu 2\na\n.RS 2\n.IP \\(bu 2\nb\n.RE\n.IP \\(bu 2\nc\n"},
		{"list of paragraphs", "* a\n\n  b\n\n  ~~~\n  c\n  ~~~\n", ".IP \\(bu 2\na\n.IP\nb\n.RS 4\n.nf\nc\n.fi\n.RE\n"},
		{"comment", "<!-- not\nthis -->\n\na\n", ".PP\na\n"},
		{"table", "| a | b |\n|---|---|\n| `c` | .d |\n", ".PP\n.TS\nallbox;\nlw(1n) lw(2n).\nT{\n\\fBa\\fR\nT}\tT{\n\\fBb\\fR\nT}\nT{\n\\fBc\\fR\nT}\tT{\n\\&.d\nT}\n.TE\n.sp\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := render([]byte(tt.markdown), "comment", ".TH X")
			if err != nil {
				t.Fatal(err)
			}
			head := ".\\\" comment\n.TH X\n.nh\n.ad l\n"
			if strings.Contains(tt.want, ".TS\n") {
				head = "'\\\" t\n" + head
			}
			if want := head + tt.want; string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestColumnWidths(t *testing.T) {
	long := strings.Repeat("word ", 40)
	tests := []struct {
		name  string
		cells []string
		want  []int
	}{
		{"short", []string{"ab", `\fBabc\fR`, `a\-b\(ti`}, []int{2, 3, 4}},
		{"one long", []string{"abcd", long}, []int{4, 60}},
		{"two long", []string{"abcd", long, long}, []int{4, 28, 29}},
		{"a long word", []string{strings.Repeat("x", 40), long}, []int{40, 24}},
		{"long words", []string{strings.Repeat("x", 60), strings.Repeat("y", 60)}, []int{60, 60}},
	}
	for _, tt := range tests {
		got := columnWidths([][]string{make([]string, len(tt.cells)), tt.cells})
		for i, w := range tt.want {
			if got[i] != w {
				t.Errorf("%s: widths %v, want %v", tt.name, got, tt.want)
				break
			}
		}
	}
}
