package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// files are the paths that match, of which there must be some.
func files(t testing.TB, patterns ...string) []string {
	t.Helper()
	var names []string
	for _, pattern := range patterns {
		matches, err := filepath.Glob(pattern)
		if err != nil || len(matches) == 0 {
			t.Fatalf("%s: %d matches, %v", pattern, len(matches), err)
		}
		names = append(names, matches...)
	}
	return names
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var given = Options{Variables: map[string]string{"POD_NAME": "nim-0"}}

func TestEveryFaultOfAFileIsReportedInItsOrder(t *testing.T) {
	for _, name := range files(t, "testdata/invalid/*.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			layout, problems := Parse(filepath.Base(name), read(t, name), Options{})
			if layout != nil {
				t.Fatal("it was accepted")
			}
			golden(t, strings.TrimSuffix(name, ".yaml")+".want", problems.Error()+"\n")
		})
	}
}

func TestValidLayoutsAndExamplesAreAccepted(t *testing.T) {
	for _, name := range files(t, "testdata/valid/*.yaml", "../examples/*.yaml", "../examples/*/layout*.yaml") {
		layout, problems := Parse(name, read(t, name), given)
		if layout == nil || len(problems.List) > 0 {
			t.Errorf("%s: %s", name, problems.Error())
		}
	}
}

func TestWhatALayoutSaysIsResolved(t *testing.T) {
	layout, problems := Parse("anchors.yaml", read(t, "testdata/valid/anchors.yaml"), Options{})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	var text strings.Builder
	for _, identity := range layout.Identities {
		fmt.Fprintf(&text, "%s %d:%d %v umask %03o\n", identity.Name, identity.UID, identity.GID, identity.Groups, identity.Umask)
	}
	for _, volume := range layout.Volumes {
		fmt.Fprintf(&text, "%s create=%v required=%v optional=%v umask=%03o\n", volume.Path, volume.Create, volume.MountRequired, volume.Optional, volume.Umask)
		for _, d := range append([]Directory{volume.Root}, volume.Directories...) {
			fmt.Fprintf(&text, "  %s only=%q umask=%03o%s\n", d.Path, d.Only, d.Umask, attributesText(d.Attributes))
		}
		if c := volume.Contents; c != nil {
			fmt.Fprintf(&text, "  contents %s%s files=%s %s %s %v %v\n", c.When, attributesText(Attributes{Owner: c.Owner, Group: c.Group, Mode: c.DirMode}), c.FileMode, c.Hardlinks, c.Exclude, c.OneFileSystem, c.Position)
		}
	}
	golden(t, "testdata/anchors.resolved", text.String())
}

func attributesText(a Attributes) string {
	var text strings.Builder
	if a.Owner != nil {
		fmt.Fprintf(&text, " owner=%d", *a.Owner)
	}
	if a.Group != nil {
		fmt.Fprintf(&text, " group=%d", *a.Group)
	}
	if a.Mode != nil {
		fmt.Fprintf(&text, " mode=%s", a.Mode)
	}
	if a.Access != nil {
		fmt.Fprintf(&text, " access=[%s]", a.Access)
	}
	if a.Default != nil {
		fmt.Fprintf(&text, " default=[%s]", a.Default)
	}
	return text.String()
}

func TestTheUmaskOfADefaultACLIsTheNearestOne(t *testing.T) {
	layout, problems := Parse("x", []byte("version: 1\numask: 0027\nvolumes:\n  - {path: /a, umask: 0007, default_acl: [umask, \"user:3000:r-X\"]}\n"), Options{})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	got := layout.Volumes[0].Root.Default.Complete(0, true).String()
	if want := "u::rwx,u:3000:r-x,g::rwx,m::rwx,o::---"; got != want {
		t.Errorf("the default ACL is %s, want %s", got, want)
	}
}

func TestModesAreOctalWhetherOrNotTheyAreQuoted(t *testing.T) {
	for text, want := range map[string]uint32{"755": 0o755, "0755": 0o755, `"0755"`: 0o755, "0o755": 0o755, `"02750"`: 0o2750, "2750": 0o2750, "0": 0} {
		layout, problems := Parse("x", []byte("version: 1\nvolumes: [{path: /a, mode: "+text+"}]"), Options{})
		if layout == nil {
			t.Fatal(problems.Error())
		}
		if got := layout.Volumes[0].Root.Mode.Bits; got != want {
			t.Errorf("mode: %s is %04o, want %04o", text, got, want)
		}
	}
}

func TestSymbolicModesDoWhatChmodDoes(t *testing.T) {
	for _, c := range []struct {
		mode      string
		directory bool
		from, to  uint32
	}{
		{"u=rwx,g=rx,o=", true, 0o777, 0o750},
		{"g+rxs,g-w,o=", true, 0o775, 0o2750},
		{"g+rX,g-w", false, 0o664, 0o644},
		{"g+X", false, 0o744, 0o754},
		{"g=u", false, 0o640, 0o660},
		{"a+r", false, 0, 0o444},
		{"+w", false, 0, 0o200},
		{"o=t", true, 0o777, 0o1770},
		{"u+s,g-s", false, 0o2755, 0o4755},
		{"ug=rw,o-rwx", false, 0o777, 0o660},
		{"u+x-w", false, 0o644, 0o544},
	} {
		mode, err := ParseMode(c.mode)
		if err != nil {
			t.Errorf("%s: %v", c.mode, err)
			continue
		}
		if got := mode.Apply(c.from, c.directory, 0o022); got != c.to {
			t.Errorf("%s makes %04o of %04o, want %04o", c.mode, got, c.from, c.to)
		}
	}
}

func TestModesThatMeanNothingAreRefused(t *testing.T) {
	for _, text := range []string{"", "8", "77777", "u", "u+z", "u=g,g=o", "g=ur", "rwx", "u==,", "0x1f", "-1"} {
		if mode, err := ParseMode(text); err == nil {
			t.Errorf("%q is accepted as %+v", text, mode)
		}
	}
}

func TestALayoutBeyondReasonIsRefusedBeforeItCostsMemory(t *testing.T) {
	var bomb strings.Builder
	bomb.WriteString("version: 1\nx0: &x0 {mode: 1}\n")
	for i := range 40 {
		fmt.Fprintf(&bomb, "x%d: &x%d {<<: [*x%d, *x%d]}\n", i+1, i+1, i, i)
	}
	bomb.WriteString("volumes: [{path: /a, <<: *x40}]\n")
	many := "version: 1\nvolumes:\n  - path: /a\n    directories: [" + strings.Repeat("a,", maxDirectories+10) + "]\n"
	for name, text := range map[string]string{
		"larger than 1 MiB":  "version: 1\n#" + strings.Repeat("x", maxSize),
		"NUL bytes":          "version: 1\x00",
		"no YAML":            strings.Repeat("[", 20000),
		"expand to more":     bomb.String(),
		"directories":        many,
		"there is a second":  "version: 1\n---\nversion: 1",
		"the layout must be": "- a\n- b\n",
	} {
		layout, problems := Parse("x", []byte(text), Options{})
		if layout != nil || !strings.Contains(problems.Error(), name) {
			t.Errorf("%s: not refused for it: %.300s", name, problems.Error())
		}
	}
}

func TestAHostileVariableCannotClimb(t *testing.T) {
	const text = "version: 1\nvariables: {POD: {}, DIR: {type: path, default: a}, N: {type: id, default: 1}}\nvolumes: [{path: /a, owner: \"${N}\", directories: [{path: \"${POD}\"}, {path: \"x/${DIR}\"}]}]\n"
	for name, value := range map[string]string{"POD": "..", "DIR": "../../etc", "N": "0x0"} {
		variables := map[string]string{"POD": "p", name: value}
		if layout, _ := Parse("x", []byte(text), Options{Variables: variables}); layout != nil {
			t.Errorf("%s=%s is accepted", name, value)
		}
	}
	if layout, problems := Parse("x", []byte(text), Options{Variables: map[string]string{"POD": "a: {b}\n- c"}}); layout == nil || layout.Volumes[0].Directories[0].Path != "a: {b}\n- c" {
		t.Errorf("a value that looks like YAML is not taken as it is: %s", problems.Error())
	}
}

func TestTheSystemsUsersAndGroupsComeLast(t *testing.T) {
	lookup := func(name string) (uint32, bool) { return 42, name == "known" || name == "mine" }
	text := "version: 1\ngroups: {mine: 7}\nvolumes: [{path: /a, owner: known, group: mine, access_acl: [\"group:known:r\"]}]\n"
	layout, problems := Parse("x", []byte(text), Options{LookupUser: lookup, LookupGroup: lookup})
	if layout == nil {
		t.Fatal(problems.Error())
	}
	root := layout.Volumes[0].Root
	if *root.Owner != 42 || *root.Group != 7 || root.Access.Entries[0].ID != 42 {
		t.Errorf("owner %d, group %d, access %s", *root.Owner, *root.Group, root.Access)
	}
}

// asJSON is a YAML text as the JSON value that an editor's validator sees.
func asJSON(t *testing.T, text []byte) any {
	t.Helper()
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	return decoded
}

func TestTheSchemaTakesWhatTheParserTakesAndCatchesWhatItCan(t *testing.T) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("layout.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("layout.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files(t, "testdata/valid/*.yaml", "../examples/*.yaml", "../examples/*/layout*.yaml") {
		if filepath.Base(name) == "language.yaml" {
			// Its {mode: u=rwx,g=rx,o=} is one mode to the parser and three keys to a validator.
			continue
		}
		if err := schema.Validate(asJSON(t, read(t, name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{
		"{}", "version: 2\nvolumes: [{path: /a}]", "version: 1\nvolumes: []", "version: 1\nvolumes: [{path: a}]",
		"version: 1\nvolumes: [{path: /a, onwer: 1}]", "version: 1\nvolumes: [{path: /a, mode: rwx}]",
		"version: 1\nvolumes: [{path: /a, mount: no}]", "version: 1\nvolumes: [{path: /a}]\nexpect: [{as: x, path: /a, can: [fly]}]",
		"version: 1\nvolumes: [{path: /a, directories: [{path: /b}]}]", "version: 1\nvolumes: [{path: /a, owner: -1}]",
	} {
		if schema.Validate(asJSON(t, []byte(text))) == nil {
			t.Errorf("the schema accepts %q", text)
		}
		if layout, _ := Parse("x", []byte(text), Options{}); layout != nil {
			t.Errorf("the parser accepts %q", text)
		}
	}
}

func TestCompleteACLs(t *testing.T) {
	for _, c := range []struct {
		text       string
		mode       uint32
		executable bool
		want       string
	}{
		{"u:3000:rwX", 0o640, false, "u::rw-,u:3000:rw-,g::r--,m::rw-,o::---"},
		{"u:3000:rwX", 0o750, true, "u::rwx,u:3000:rwx,g::r-x,m::rwx,o::---"},
		{"g:9:r,g:2:w,m::r", 0o700, true, "u::rwx,g::---,g:2:-w-,g:9:r--,m::r--,o::---"},
		{"u::r", 0o755, true, "u::r--,g::r-x,o::r-x"},
		{"o:x", 0o750, true, "u::rwx,g::r-x,o::--x"},
	} {
		var acl ACL
		for _, part := range strings.Split(c.text, ",") {
			entry, err := ParseEntry(part, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			acl.Entries = append(acl.Entries, entry)
		}
		complete := acl.Complete(c.mode, c.executable)
		if got := complete.String(); got != c.want {
			t.Errorf("%s over %o is %s, want %s", c.text, c.mode, got, c.want)
		}
		if err := complete.Check(); err != nil {
			t.Errorf("%s: %v", complete, err)
		}
	}
}

func TestWhatTheKernelWouldRefuseOfAnACLIsSaid(t *testing.T) {
	base := []Entry{{Tag: TagUserObj}, {Tag: TagGroupObj}, {Tag: TagOther}}
	for name, entries := range map[string][]Entry{
		"instead of one":   base[:2],
		"masks":            append(slices.Clone(base), Entry{Tag: TagUser, ID: 1}),
		"which means none": append(slices.Clone(base), Entry{Tag: TagUser, ID: 4294967295}, Entry{Tag: TagMask}),
		"unknown tag":      append(slices.Clone(base), Entry{Tag: 0x40}),
		"2 masks":          append(slices.Clone(base), Entry{Tag: TagMask}, Entry{Tag: TagMask}),
		"2 entries u::":    append(slices.Clone(base), Entry{Tag: TagUserObj}),
		"0 entries g::":    {{Tag: TagUserObj}, {Tag: TagOther}},
	} {
		err := ACL{Entries: entries}.Check()
		if len(entries) == 0 {
			name = "0 entries u::"
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: %v, want %s", entries, err, name)
		}
	}
}
