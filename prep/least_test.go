package prep

import (
	"testing"

	"volprep/spec"
)

func TestWhatALayoutNeedsOnEmptyVolumes(t *testing.T) {
	runtime := Credentials{UID: 1000, GID: 1000, Groups: []uint32{2000}}
	for _, test := range []struct {
		name, volumes string
		needed        Capabilities
		none          bool
	}{
		{"a directory handed over needs CHOWN", "[{path: /v, directories: [{path: a, owner: 1000, group: 1000, mode: 0750}]}]", CapChown, true},
		{"one for somebody else cannot be made by the runtime", "[{path: /v, directories: [{path: a, owner: 1001}]}]", CapChown, false},
		{"a group of the runtime's own needs nothing of it", "[{path: /v, directories: [{path: a, owner: 1000, group: 2000, mode: 2770}]}]", CapChown, true},
		{"a group that is not its own does", "[{path: /v, directories: [{path: a, owner: 1000, group: 3000}]}]", CapChown, false},
		{"below a directory that is closed afterwards the next run borrows", "[{path: /v, directories: [{path: a, owner: 1000, group: 1000, mode: 0700}, {path: a/b, owner: 1000, group: 1000}]}]", CapChown | CapFowner, true},
		{"uid 0 may look in by an ACL", `[{path: /v, directories: [{path: a, owner: 1000, mode: 0700, access_acl: ["user:0:r-x"]}, {path: a/b, owner: 1000}]}]`, CapChown, true},
		{"nothing is handed over", "[{path: /v, directories: [{path: a, mode: 0750}]}]", 0, true},
		{"what is there already may be anybody's", "[{path: /v, contents: {file_mode: g+r}}]", 0, false},
	} {
		layout, problems := spec.Parse("layout", []byte("{version: 1, volumes: "+test.volumes+"}"), spec.Options{})
		if layout == nil {
			t.Fatalf("%s: %v", test.name, problems.Error())
		}
		if got := NeededWhenEmpty(&layout.Volumes[0], Caller{}); got != test.needed {
			t.Errorf("%s: %s is needed, want %s", test.name, got, test.needed)
		}
		if got := NeedsNone(layout, runtime); got != test.none {
			t.Errorf("%s: needs none as the runtime: %v, want %v", test.name, got, test.none)
		}
	}
}
