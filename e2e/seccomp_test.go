package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// volprep runs under the profile that it prints itself, with no_new_privs and
// without, which a runtime puts on at different moments.
func TestDockerUnderVolprepsOwnSeccompProfile(t *testing.T) {
	d := engine(t)
	profile := filepath.Join(t.TempDir(), "seccomp.json")
	printed := d.command("run", "--rm", "--network", "none", volprepImage, "seccomp").must(t)
	if err := os.WriteFile(profile, []byte(printed), 0o600); err != nil {
		t.Fatal(err)
	}
	const layout = `{version: 1, volumes: [{path: /models, directories: [{path: hub, owner: 1001, group: 2000, mode: "2770", default_acl: ["user:1002:rwx"]}],
		contents: {group: 2000, file_mode: "g+rX"}}]}`
	for _, run := range []struct {
		name    string
		options []string
	}{
		{"with no_new_privs", []string{"--security-opt", "seccomp=" + profile}},
		{"under Docker's default profile", nil},
	} {
		t.Run(run.name, func(t *testing.T) {
			volume := d.volume(t)
			for _, want := range []string{"changed", "unchanged"} {
				report, stderr, status := d.prepare(t, layout, append(run.options, "--volume", volume+":/models")...)
				if status != 0 || report.Result != want {
					t.Fatalf("exit status %d, %s, want %s:\n%s", status, report.Result, want, stderr)
				}
				if report.Sandbox.Seccomp != "on" {
					t.Errorf("the filter of its own is %s", report.Sandbox.Seccomp)
				}
			}
		})
	}
	t.Run("without no_new_privs", func(t *testing.T) {
		d.command("run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--cap-add", "CHOWN", "--cap-add", "FOWNER",
			"--security-opt", "seccomp="+profile, "--volume", d.volume(t)+":/models", "--env", "VOLPREP_LAYOUT="+layout, volprepImage).must(t)
	})
	t.Run("which keeps another program from making links", func(t *testing.T) {
		pull := func(options ...string) string {
			args := append([]string{"run", "--rm", "--network", "none", "--user", "0", "--volume", d.volume(t) + ":/models"}, options...)
			_, stderr, _ := d.command(append(args, runtimeImage, "pull")...).output(t)
			return stderr
		}
		if stderr := pull(); stderr != "" {
			t.Errorf("without the profile: %s", stderr)
		}
		if stderr := pull("--security-opt", "seccomp="+profile); !strings.Contains(stderr, "operation not permitted") {
			t.Errorf("a puller under volprep's profile made its links: %s", stderr)
		}
	})
}
