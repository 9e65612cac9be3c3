package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// logAndRotate writes a server's first log line, rotates the log away as
// logrotate and Python's RotatingFileHandler do, by rename, and goes on in a
// new file. It gives the files that it wrote.
func logAndRotate(dir string) ([]string, error) {
	log := filepath.Join(dir, "server.log")
	if err := appendLine(log, "starting"); err != nil {
		return nil, err
	}
	rotated := log + ".1"
	if err := os.Rename(log, rotated); err != nil {
		return nil, err
	}
	if err := appendLine(log, "ready"); err != nil {
		return nil, err
	}
	return []string{rotated, log}, nil
}

func appendLine(path, line string) error {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(file, line); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
