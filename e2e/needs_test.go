package e2e

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// listening are the sockets of a process's network namespace that wait for
// somebody: state 0A of /proc/PID/net/tcp, and every one of udp (proc_net(5)).
func listening(t testing.TB, pid string) []string {
	t.Helper()
	var found []string
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		table, err := os.ReadFile("/proc/" + pid + "/net/" + protocol)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(table)) {
			fields := strings.Fields(line)
			if fields[0] != "sl" && (fields[3] == "0A" || strings.HasPrefix(protocol, "udp")) {
				found = append(found, protocol+" "+fields[1])
			}
		}
	}
	return found
}

func TestListeningSocketsAreFound(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	want := fmt.Sprintf("tcp 0100007F:%04X", listener.Addr().(*net.TCPAddr).Port)
	if found := listening(t, "self"); !slices.Contains(found, want) {
		t.Errorf("found %q, want %q among them", found, want)
	}
}

// What a server needs is what it does not do without: each mount is taken its
// writability in turn, on a read-only root, as uid 1000 or 1001 and with no
// capability. README's table has the rows that this finds.
func TestWhatAServerNeeds(t *testing.T) {
	needRoot(t)
	d := engine(t)
	layout, err := os.ReadFile("../examples/nim/layout.yaml")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	volumes := map[string]string{"/models": d.volume(t), "/logs": d.volume(t), "/tmp": d.volume(t)}
	if _, stderr, status := d.prepare(t, string(layout), "--volume", volumes["/models"]+":/models", "--volume", volumes["/logs"]+":/logs"); status != 0 {
		t.Fatalf("apply: exit status %d\n%s", status, stderr)
	}
	for _, server := range []struct {
		name, user string
		args       []string
	}{
		{"the puller", "1001:2000", []string{"pull"}},
		{"the server", "1000:1000", []string{"serve", "-logs", "/logs/nim"}},
	} {
		// No IPC namespace of its own to write to: /dev/shm is not there.
		run := func(readOnly string, options ...string) command {
			args := append([]string{"run", "--network", "none", "--ipc", "none", "--read-only", "--cap-drop", "ALL",
				"--security-opt", "no-new-privileges", "--user", server.user, "--group-add", "2000"}, options...)
			for path, volume := range volumes {
				mount := volume + ":" + path
				if path == readOnly {
					mount += ":ro"
				}
				args = append(args, "--volume", mount)
			}
			return d.command(append(append(args, runtimeImage), server.args...)...)
		}
		report := parseServed(t, run("", "--rm").must(t))
		var needed []string
		for path := range volumes {
			_, stderr, status := run(path, "--rm").output(t)
			if status == 0 {
				continue
			}
			if !strings.Contains(stderr, path) || !strings.Contains(stderr, "read-only file system") {
				t.Errorf("without writing to %s, %s ended with %d for another reason\n%s", path, server.name, status, stderr)
			}
			needed = append(needed, "`"+path+"`")
		}
		slices.Sort(needed)
		ports := "none"
		if server.name == "the server" {
			server.args = append(server.args, "-stay")
			container := strings.TrimSpace(run("", "--detach").must(t))
			t.Cleanup(func() {
				if out, err := outlive(d.command("rm", "--force", container)); err != nil {
					t.Errorf("docker rm: %v\n%s", err, out)
				}
			})
			for !strings.Contains(d.command("logs", container).must(t), `"model"`) {
				time.Sleep(50 * time.Millisecond)
			}
			if found := listening(t, strings.TrimSpace(d.command("inspect", "--format", "{{.State.Pid}}", container).must(t))); len(found) > 0 {
				ports = strings.Join(found, ", ")
			}
		}
		capabilities := "none"
		if report.Process.Status["CapEff"] != "0000000000000000" {
			capabilities = report.Process.Status["CapEff"]
		}
		row := fmt.Sprintf("| %s | %s | %s | %s |", server.name, strings.Join(needed, ", "), capabilities, ports)
		if !strings.Contains(string(readme), row+"\n") {
			t.Errorf("README.md lacks the row that was found:\n%s", row)
		}
	}
}
