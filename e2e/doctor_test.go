package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// volatile are the facts of a diagnosis that are the machine's own.
var volatile = regexp.MustCompile(`(?m)^(  (?:release|lsm|openat2|fchmodat2|landlock|seccomp filters|fs\.\w+|free|securebits|mounted)) +.*$`)

func TestDockerDoctor(t *testing.T) {
	d := engine(t)
	const layout = `{version: 1, volumes: [{path: /models, owner: 1000, mode: 2750}, {path: /forgotten, create: false}]}`
	for _, c := range []struct {
		golden string
		caps   []string
	}{
		{"nothing", []string{"--cap-drop", "ALL"}},
		{"two", []string{"--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "FOWNER", "--security-opt", "no-new-privileges"}},
		// All but the one that a nested machine cannot give.
		{"all", []string{"--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"}},
	} {
		t.Run(c.golden, func(t *testing.T) {
			args := append([]string{"run", "--rm", "--network", "none", "--tmpfs", "/models:mode=0755", "--env", "VOLPREP_LAYOUT=" + layout}, c.caps...)
			got := volatile.ReplaceAllString(d.command(append(args, volprepImage, "doctor")...).must(t), "$1 …")
			golden := filepath.Join("testdata", "doctor-"+c.golden+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if difference := cmp.Diff(string(want), got); difference != "" {
				t.Errorf("%s (-want +got):\n%s", golden, difference)
			}
		})
	}
}
