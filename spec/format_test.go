package spec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAShortenedACLMeansTheSame(t *testing.T) {
	for _, c := range []struct{ text, mode, short string }{
		{"u::rwx,g::r-x,o::---,u:1:rwx,m::rwx", "0750", "u:1:rwx"},
		{"u::rwx,g::r-x,o::---,u:1:rwx,m::r--", "0750", "u:1:rwx,m::r--"},
		{"u::rwx,g::rwx,o::r-x", "0750", "g::rwx,o::r-x"},
		{"u::rwx,g::r-x,o::---", "0750", "u::rwx,g::r-x,o::---"},
	} {
		layout, problems := Parse("x", []byte("version: 1\nvolumes: [{path: /v, mode: \""+c.mode+"\", default_acl: \""+c.text+"\"}]\n"), Options{})
		if layout == nil {
			t.Fatal(problems.Error())
		}
		mode := layout.Volumes[0].Root.Mode.Bits
		whole := layout.Volumes[0].Root.Default.Complete(mode, true)
		short := Shorten(whole, mode)
		if short.String() != c.short {
			t.Errorf("%s became %s, want %s", c.text, short, c.short)
		}
		if difference := cmp.Diff(whole.String(), short.Complete(mode, true).String()); difference != "" {
			t.Error(difference)
		}
	}
	if !Shorten(ACL{}, 0o755).Empty() {
		t.Error("an ACL without entries got some")
	}
}

func TestFormatWritesWhatParseReads(t *testing.T) {
	const text = `version: 1
groups: {g: 2000}
identities:
  app: {uid: 1000, gid: g, groups: [5]}
volumes:
  - path: /v
    owner: app
    group: g
    mode: "2770"
    default_acl: ["u:3000:r-x"]
    directories:
      - {path: a b, owner: 7, access_acl: []}
`
	layout, problems := Parse("x", []byte(text), Options{})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	got, err := Format(layout)
	if err != nil {
		t.Fatal(err)
	}
	if difference := cmp.Diff(text, string(got)); difference != "" {
		t.Error(difference)
	}
}
