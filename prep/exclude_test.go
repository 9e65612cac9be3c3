package prep

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// excluded walks down a path and tells whether it, or something above it, is left out.
func excluded(x *exclusions, path string) bool {
	at := x.start()
	for component := range strings.SplitSeq(path, "/") {
		name := []byte(component)
		if x.excludes(at, name) {
			return true
		}
		at = x.below(at, name)
	}
	return false
}

func TestWhatIsExcluded(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          bool
	}{
		{"lost+found", "lost+found", true},
		{"lost+found", "a/b/lost+found/c", true},
		{"lost+found", "lost", false},
		{".snapshot/", "a/.snapshot", true},
		{"*.tmp", "a/b.tmp", true},
		{"*.tmp", "a/b.tmp.c", false},
		{"*", "anything", true},
		{"?.bin", "a.bin", true},
		{"?.bin", "ab.bin", false},
		{"[a-c]*", "bee", true},
		{"[!a-c]*", "bee", false},
		{"[]]", "]", true},
		{"[", "[", true},
		{`\*`, "*", true},
		{`\*`, "a", false},
		{"a*b*c", "aXbYbZc", true},
		{"a*b*c", "aXbYbZ", false},
		{"hub/tmp", "hub/tmp", true},
		{"hub/tmp", "a/hub/tmp", false},
		{"/hub", "hub", true},
		{"/hub", "a/hub", false},
		{"hub/*/refs", "hub/m/refs/main", true},
		{"hub/*/refs", "hub/m/n/refs", false},
		{"**/refs", "refs", true},
		{"**/refs", "a/b/refs", true},
		{"hub/**/refs", "hub/refs", true},
		{"hub/**/refs", "hub/a/b/refs", true},
		{"hub/**/refs", "refs", false},
		{"hub/**", "hub", false},
		{"hub/**", "hub/a", true},
		{"a/**/b/**/c", "a/b/x/y/c", true},
		{"a/**/b/**/c", "a/x/b", false},
	} {
		t.Run(fmt.Sprintf("%s of %s", test.pattern, test.path), func(t *testing.T) {
			if got := excluded(newExclusions([]string{test.pattern}), test.path); got != test.want {
				t.Errorf("excluded is %v", got)
			}
		})
	}
}

func FuzzMatchName(f *testing.F) {
	for _, seed := range [][2]string{{"*a*", "bab"}, {"[a-", "a"}, {`\`, `\`}, {"[!]x]", "y"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		got := matchName([]byte(pattern), []byte(name))
		if strings.ContainsAny(pattern, `\[`) || !isASCII(pattern+name) || strings.Contains(name, "/") || strings.Contains(pattern, "/") {
			return
		}
		want, err := filepath.Match(pattern, name)
		if err == nil && got != want {
			t.Errorf("%q of %q is %v", pattern, name, got)
		}
	})
}

func isASCII(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return r > 127 }) < 0
}

func TestTheCheckOfAnExclusionAllocatesNothing(t *testing.T) {
	x := newExclusions([]string{"lost+found", "*.tmp", "hub/**/refs"})
	at, name := x.start(), []byte("model.safetensors")
	if n := testing.AllocsPerRun(100, func() { x.excludes(at, name) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
