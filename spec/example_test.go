package spec_test

import (
	"fmt"

	"volprep/spec"
)

func ExampleParse() {
	layout, problems := spec.Parse("layout.yaml", []byte(`version: 1
identities: {app: {uid: 1000, gid: 1000}}
volumes: [{path: /models, owner: app, mode: 2750}]
`), spec.Options{})
	fmt.Println(len(problems.List), layout.Volumes[0].Path, *layout.Volumes[0].Root.Owner, layout.Volumes[0].Root.Mode.Text)
	// Output: 0 /models 1000 2750
}

// Every fault of a layout is told at once, with its place and its mend.
func ExampleProblems() {
	_, problems := spec.Parse("layout.yaml", []byte("version: 1\nvolums: []\n"), spec.Options{})
	fmt.Println(problems.Error())
	// Output:
	// layout.yaml:1:1: the layout lacks "volumes": add volumes
	//   version: 1
	//   ^
	// layout.yaml:2:1: the layout has the unknown key "volums": did you mean "volumes"?
	//   volums: []
	//   ^
}
