package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// liveVariable makes the test binary a workload in that directory.
const liveVariable = "VOLPREP_E2E_LIVE"

// TestLiveWorkload is no test: it is the server that TestALiveWorkload starts.
// It makes, renames, reads and removes files until its standard input ends,
// and then says how many operations there were, and how many failed.
func TestLiveWorkload(t *testing.T) {
	dir := os.Getenv(liveVariable)
	if dir == "" {
		t.Skip("it is the server that TestALiveWorkload starts")
	}
	over := make(chan error)
	go func() {
		_, err := bufio.NewReader(os.Stdin).ReadByte()
		over <- err
	}()
	fmt.Println("ready")
	operations, failed := 0, 0
	tried := func(err error) {
		operations++
		if err != nil {
			failed++
		}
	}
	for i := 0; ; i++ {
		select {
		case <-over:
			fmt.Printf("operations %d failed %d\n", operations, failed)
			return
		default:
		}
		from, to := filepath.Join(dir, fmt.Sprint("from", i%7)), filepath.Join(dir, fmt.Sprint("to", i%7))
		tried(os.WriteFile(from, []byte("token"), 0o660))
		tried(os.Rename(from, to))
		_, err := os.ReadFile(to)
		tried(err)
		_, err = os.ReadDir(dir)
		tried(err)
		tried(os.Remove(to))
	}
}

// TestALiveWorkload counts what a server notices of volprep being run over and
// over on its volume: VOLPREP_LIVE times, and 100 where it is not set.
func TestALiveWorkload(t *testing.T) {
	needRoot(t)
	needPrograms(t, "setpriv")
	runs := 100
	if text := os.Getenv("VOLPREP_LIVE"); text != "" {
		var err error
		if runs, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, acl, mode string
		groups          []string
		// borrows: volprep has no other way in.
		borrows bool
	}{
		{"volprep is in the group", "", "2770", []string{"--groups", "2000"}, false},
		{"an ACL lets uid 0 in", `access_acl: ["user:0:r-x"], `, "2770", []string{"--clear-groups"}, false},
		{"volprep borrows what only its owner may enter", "", "0700", []string{"--clear-groups"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := state{script: "mkdir -p models/hub/work; chown -R 1000:2000 models; chmod 0" + c.mode + " models models/hub models/hub/work"}.plant(t)
			layout := fmt.Sprintf(`{version: 1, volumes: [{path: /models, owner: 1000, group: 2000, mode: "%[2]s", %[1]s directories: [
				{path: hub, owner: 1000, group: 2000, mode: "%[2]s", %[1]s}, {path: hub/work, owner: 1000, group: 2000, mode: "%[2]s"}]}]}`, c.acl, c.mode)
			run := applyWithTwo(t, root)
			run.args, run.env = append(c.groups, run.args...), []string{"VOLPREP_LAYOUT=" + layout}
			run.must(t)
			binary := filepath.Join(root, "workload")
			program("cp", self, binary).must(t)
			server := exec.Command(binary, "-test.run=^TestLiveWorkload$", "-test.timeout=0")
			server.Env = append(os.Environ(), liveVariable+"="+root+"/models/hub/work")
			server.Dir = "/"
			server.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000, Groups: []uint32{2000}}}
			stop, err := server.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			said, err := server.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(said)
			if !lines.Scan() || lines.Text() != "ready" {
				t.Fatalf("the workload says %q", lines.Text())
			}
			began := time.Now()
			for range runs {
				run.must(t)
			}
			took := time.Since(began)
			if err := stop.Close(); err != nil {
				t.Fatal(err)
			}
			var operations, failed int
			if !lines.Scan() {
				t.Fatal("the workload says nothing at its end")
			}
			if _, err := fmt.Sscanf(lines.Text(), "operations %d failed %d", &operations, &failed); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			server.Wait()
			t.Logf("%d applies in %.1f s beside %d operations, of which %d failed", runs, took.Seconds(), operations, failed)
			if operations < runs {
				t.Errorf("the workload did only %d operations", operations)
			}
			if failed > 0 && !c.borrows {
				t.Errorf("%d of %d operations failed", failed, operations)
			}
		})
	}
}
