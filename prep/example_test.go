package prep_test

import (
	"fmt"

	"volprep/prep"
	"volprep/spec"
)

// What a layout gives to fresh volumes is known without any volume, and so is
// what a process may do there.
func ExampleCan() {
	layout, _ := spec.Parse("layout.yaml", []byte(`version: 1
volumes: [{path: /models, owner: 1001, group: 2000, mode: "2750"}]
`), spec.Options{})
	state := prep.Fresh(layout)["/models"]
	verdict := prep.Can(prep.Credentials{UID: 1000, GID: 1000, Groups: []uint32{2000}}, []prep.Component{{Path: "/models", State: state}}, spec.Create)
	fmt.Println(verdict.Allowed, verdict.Why)
	fmt.Println(verdict.Mend)
	// Output:
	// false /models: the owning group 2000 has r-x, and -wx is needed
	// give /models mode: g+w
}
