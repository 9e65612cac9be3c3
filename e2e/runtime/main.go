// Command runtime does to its volumes what an inference server and its model
// puller do, and nothing else: it stands in for them where no such image can
// be had. It reports what it saw as one JSON object on standard output and
// exits with 1 at the first thing that is otherwise than it must be.
//
//	runtime pull  -models DIR -repository ORG/NAME   fetch a model into a hub cache
//	runtime serve -models DIR -repository ORG/NAME -logs DIR [-stay] [-crash-once FILE]
//	runtime stat PATH...                             owner and mode of each path
//	runtime pause                                    wait for SIGTERM
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want a mode: pull, serve, stat or pause")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	models := flags.String("models", "/models", "directory of the model cache")
	repository := flags.String("repository", "nim/tiny", "the model, as a hub names it")
	logs := flags.String("logs", "", "directory of the log files")
	stay := flags.Bool("stay", false, "go on until SIGTERM")
	crashOnce := flags.String("crash-once", "", "fail where `FILE` is not, after making it")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	report := Report{Process: process()}
	cache := hub{root: filepath.Join(*models, "hub"), repository: *repository}
	switch args[0] {
	case "pull":
		path, err := cache.pull()
		if err != nil {
			return err
		}
		report.Model = path
	case "serve":
		if err := report.serve(cache, *logs); err != nil {
			return err
		}
		if *crashOnce != "" {
			if _, err := os.Stat(*crashOnce); errors.Is(err, fs.ErrNotExist) {
				if err := os.WriteFile(*crashOnce, nil, 0o666); err != nil {
					return err
				}
				return errors.New("crashing, as -crash-once asks")
			}
		}
	case "stat":
		report.Paths = map[string]string{}
		for _, path := range flags.Args() {
			var stat syscall.Stat_t
			if err := syscall.Lstat(path, &stat); err != nil {
				return &fs.PathError{Op: "lstat", Path: path, Err: err}
			}
			report.Paths[path] = fmt.Sprintf("%d:%d %04o", stat.Uid, stat.Gid, stat.Mode&0o7777)
		}
	case "pause":
		*stay = true
	default:
		return fmt.Errorf("unknown mode %q: want pull, serve, stat or pause", args[0])
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		return err
	}
	if *stay {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM, os.Interrupt)
		<-terminated
	}
	return nil
}

// Report is what one run did and saw.
type Report struct {
	Process Process `json:"process"`
	// Model is the snapshot's path that was pulled or read.
	Model string `json:"model,omitempty"`
	// Wrote lists what was written, Refused what the kernel did not allow, with its answer.
	Wrote   []string          `json:"wrote,omitempty"`
	Refused map[string]string `json:"refused,omitempty"`
	// Paths holds uid:gid and mode of each path of `stat`.
	Paths map[string]string `json:"paths,omitempty"`
}

// serve is an inference server's start: the log first, as the server whose
// crash on that very line began this project; then the model; then what a
// server must not be able to do.
func (r *Report) serve(cache hub, logs string) error {
	if logs != "" {
		wrote, err := logAndRotate(logs)
		if err != nil {
			return err
		}
		r.Wrote = wrote
	}
	model, err := cache.read()
	if err != nil {
		return err
	}
	r.Model = model
	r.Refused = map[string]string{}
	for _, path := range []string{
		filepath.Join(cache.root, "intruder"),
		filepath.Join(filepath.Dir(model), "intruder"),
		filepath.Join(filepath.Dir(cache.root), "intruder"),
		"/intruder",
	} {
		answer, err := refused(path)
		if err != nil {
			return err
		}
		r.Refused[path] = answer
	}
	return nil
}

// refused tries to make a file that must not come into being and gives the
// kernel's answer.
func refused(path string) (string, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err == nil {
		file.Close()
		os.Remove(path)
		return "", fmt.Errorf("%s was created: it must be refused", path)
	}
	if !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EROFS) {
		return "", fmt.Errorf("making %s must be refused by permission, not by: %w", path, err)
	}
	var answer syscall.Errno
	errors.As(err, &answer)
	return answer.Error(), nil
}

// Process is what the kernel says of this process.
type Process struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups"`
	// Status holds the lines of /proc/self/status that tell of privilege.
	Status map[string]string `json:"status"`
}

func process() Process {
	groups, _ := os.Getgroups()
	p := Process{UID: os.Getuid(), GID: os.Getgid(), Groups: groups, Status: map[string]string{}}
	file, err := os.Open("/proc/self/status")
	if err != nil {
		p.Status["error"] = err.Error()
		return p
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		switch key {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp":
			p.Status[key] = strings.TrimSpace(value)
		}
	}
	return p
}
