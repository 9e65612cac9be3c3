package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// acting are the system calls of a run that look at a volume or change it, as
// strace names them; fchmodat2 is too young for the strace of some machines,
// and the call after it stands in for its exit.
var acting = []string{"openat2", "statx", "mkdirat", "renameat2", "unlinkat", "fchownat", "fchmodat", "utimensat", "setxattr", "getxattr", "removexattr", "getdents64", "close"}

// someone is a process without any capability that may gain by a run that is killed.
type someone struct{ uid, gid, groups string }

var anybody = []someone{
	{"1500", "1500", ""}, {"1700", "1501", ""}, {"1000", "1000", "2000"}, {"1001", "2000", ""}, {"65534", "65534", ""}, {"3000", "0", ""}, {"1002", "1002", ""},
}

// rights lists what each of them may do with each path, by asking the kernel.
func rights(t *testing.T, root string) map[string]bool {
	t.Helper()
	var paths []string
	if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	may := map[string]bool{}
	for _, who := range anybody {
		groups := []string{"--clear-groups"}
		if who.groups != "" {
			groups = []string{"--groups", who.groups}
		}
		args := append([]string{"--reuid", who.uid, "--regid", who.gid}, groups...)
		args = append(args, "--inh-caps=-all", "--bounding-set=-all", "sh", "-c",
			`for p; do for m in r w x; do if [ -$m "$p" ]; then echo "$m $p"; fi; done; done`, "sh")
		for line := range strings.Lines(program("setpriv", append(args, paths...)...).must(t)) {
			// What is being made in the staging directory has another name each time.
			may[who.uid+" "+strings.Replace(strings.TrimSpace(line), root, "", 1)] = true
		}
	}
	return may
}

// TestKilledAtEverySystemCall kills the released binary at the entry of each
// of its calls, which is at the exit of the call before. Then nobody may do
// more than before or after, and the next run ends as if nothing had happened.
// All points are tried with VOLPREP_FAULTS=all, some otherwise.
func TestKilledAtEverySystemCall(t *testing.T) {
	needRoot(t)
	needPrograms(t, "strace", "setpriv", "getfacl")
	every := 6
	if os.Getenv("VOLPREP_FAULTS") == "all" {
		every = 1
	}
	for _, s := range states {
		if s.same {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			whole := s.plant(t)
			before := rights(t, whole)
			if _, stderr, status := s.apply(t, whole).output(t); !s.ends(status) {
				t.Fatalf("exit status %d\n%s", status, stderr)
			}
			want, after := listing(t, whole, 0), rights(t, whole)
			killed := 0
			for _, call := range acting {
				for n := 1; ; n += every {
					root := s.plant(t)
					run := s.apply(t, root)
					// The program that takes the other capabilities away makes calls too, so strace begins behind it.
					at := slices.IndexFunc(run.args, func(arg string) bool { return strings.HasSuffix(arg, "/volprep") })
					inject := []string{"strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, n)}
					run.args = slices.Concat(run.args[:at], inject, run.args[at:])
					if _, _, status := run.output(t); s.ends(status) {
						break
					}
					killed++
					point := fmt.Sprintf("killed at %s number %d", call, n)
					for right := range rights(t, root) {
						if !before[right] && !after[right] {
							t.Errorf("%s: uid %s, neither before nor after", point, right)
						}
					}
					if _, stderr, status := s.apply(t, root).output(t); !s.ends(status) {
						t.Fatalf("%s: the next run: exit status %d\n%s", point, status, stderr)
					}
					if difference := cmp.Diff(want, listing(t, root, 0)); difference != "" {
						t.Fatalf("%s: the next run ends otherwise: %s", point, difference)
					}
					os.RemoveAll(root)
				}
			}
			if killed == 0 {
				t.Error("no run was killed")
			}
			t.Logf("%d points tried and recovered", killed)
		})
	}
}
