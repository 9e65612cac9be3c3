package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// hub is a model cache as huggingface_hub lays it out, and every server that
// builds on it reads it: blobs by their hash, refs that name a revision,
// snapshots of relative links into the blobs, a lock file for each blob.
type hub struct {
	root       string
	repository string
}

// The one model that can be had, and its revision.
var (
	modelFile     = "model.safetensors"
	modelContent  = bytes.Repeat([]byte("weights "), 1<<13)
	modelRevision = strings.Repeat("5eed", 10)
)

func (h hub) folder() string {
	return "models--" + strings.ReplaceAll(h.repository, "/", "--")
}

// pull fetches the model as huggingface_hub does: under a lock, into an
// incomplete file that is renamed, then the link, then the ref. A second pull
// finds the blob and writes it not again.
func (h hub) pull() (string, error) {
	sum := sha256.Sum256(modelContent)
	name := hex.EncodeToString(sum[:])
	folder := filepath.Join(h.root, h.folder())
	locks := filepath.Join(h.root, ".locks", h.folder())
	snapshot := filepath.Join(folder, "snapshots", modelRevision)
	for _, dir := range []string{locks, filepath.Join(folder, "blobs"), filepath.Join(folder, "refs"), snapshot} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return "", err
		}
	}
	lock, err := os.OpenFile(filepath.Join(locks, name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	blob := filepath.Join(folder, "blobs", name)
	if _, err := os.Stat(blob); err != nil {
		if err := os.WriteFile(blob+".incomplete", modelContent, 0o666); err != nil {
			return "", err
		}
		if err := os.Rename(blob+".incomplete", blob); err != nil {
			return "", err
		}
	}
	link := filepath.Join(snapshot, modelFile)
	if _, err := os.Lstat(link); err != nil {
		if err := os.Symlink(filepath.Join("..", "..", "blobs", name), link); err != nil {
			return "", err
		}
	}
	return link, os.WriteFile(filepath.Join(folder, "refs", "main"), []byte(modelRevision), 0o666)
}

// read opens the model by its ref and snapshot link and proves its content.
func (h hub) read() (string, error) {
	folder := filepath.Join(h.root, h.folder())
	revision, err := os.ReadFile(filepath.Join(folder, "refs", "main"))
	if err != nil {
		return "", err
	}
	link := filepath.Join(folder, "snapshots", string(revision), modelFile)
	content, err := os.ReadFile(link)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(content, modelContent) {
		return "", fmt.Errorf("%s holds %d bytes that are not the model's", link, len(content))
	}
	return link, nil
}
