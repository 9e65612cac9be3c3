package spec

import (
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	for _, name := range files(f, "testdata/valid/*.yaml", "testdata/invalid/*.yaml", "../examples/*.yaml") {
		f.Add(string(read(f, name)))
	}
	f.Fuzz(func(t *testing.T, text string) {
		layout, problems := Parse("fuzz", []byte(text), given)
		if (layout == nil) != problems.Faults() {
			t.Errorf("layout %v, problems %s", layout, problems.Error())
		}
		lines := strings.Count(text, "\n") + 1
		for _, problem := range problems.List {
			if problem.Position.Line < 1 || problem.Position.Line > lines || problem.Position.Column < 1 || problem.Message == "" || problem.Mend == "" {
				t.Errorf("a problem out of place: %+v", problem)
			}
		}
		for _, r := range problems.Error() {
			if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
				t.Errorf("a control character %q gets through", r)
			}
		}
	})
}

func FuzzMode(f *testing.F) {
	for _, seed := range []string{"755", "0o755", "u=rwx,g=rx,o=", "g+rX", "g=u", "+t", "u=g,g=o"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mode, err := ParseMode(text)
		if err != nil {
			return
		}
		once := mode.Apply(0o640, false, 0o022)
		if once > 0o7777 || mode.Apply(once, false, 0o022) != once {
			t.Errorf("%q makes %o of 640, and %o of that", text, once, mode.Apply(once, false, 0o022))
		}
	})
}

func FuzzACLText(f *testing.F) {
	for _, seed := range []string{"user:3000:r-X", "g::rx", "m:r", "o::-", "default:user:1:rwx", "d:u:0:w"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		entry, err := ParseEntry(text, func(string) (uint32, bool) { return 0, false }, func(string) (uint32, bool) { return 0, false })
		if err != nil {
			return
		}
		again, err := ParseEntry(entry.String(), nil, nil)
		if entry.Perm&PermExecute != 0 {
			entry.Perm &^= PermConditionalExecute
		}
		if err != nil || again != entry {
			t.Errorf("%q is %v, and that text is %v (%v)", text, entry, again, err)
		}
	})
}

func FuzzVariables(f *testing.F) {
	f.Add("nim-0", "a/b", "1000")
	f.Add("..", "../x", "-1")
	f.Add("a/b", "/", "007")
	f.Fuzz(func(t *testing.T, name, path, id string) {
		const text = "version: 1\nvariables: {N: {}, P: {type: path}, I: {type: id}}\nvolumes: [{path: /a, owner: \"${I}\", directories: [{path: \"${N}/x\"}, {path: \"y/${P}\"}]}]\n"
		layout, problems := Parse("fuzz", []byte(text), Options{Variables: map[string]string{"N": name, "P": path, "I": id}})
		if layout == nil {
			if !problems.Faults() {
				t.Error("refused without a fault")
			}
			return
		}
		for _, d := range layout.Volumes[0].Directories {
			if err := checkRelative(d.Path); err != nil {
				t.Errorf("%q: %v", d.Path, err)
			}
		}
	})
}
