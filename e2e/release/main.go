// Command release builds all that a release of volprep has, the same bytes
// from the same tree wherever it stands:
//
//	go run ./e2e/release -o dist -version 1.0.0
//
// It makes a static binary for each architecture, two OCI image layouts of
// linux/amd64 and linux/arm64 (docker load takes volprep-image.tar and
// volprep-nonroot-image.tar, and skopeo and crane the same), a CycloneDX list
// of the modules in the binary, the JSON Schema of the layout, the seccomp
// profile, the manual pages, and SHA256SUMS of all.
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"volprep/prep"
	"volprep/spec"
)

func main() {
	out := flag.String("o", "dist", "the `DIR` to write to; it is made")
	version := flag.String("version", "", "the release's `VERSION`")
	commit := flag.String("commit", "", "the `COMMIT` that it is made of")
	only := flag.String("only", strings.Join(architectures, ","), "the architectures, `ARCH,…`")
	flag.Parse()
	if err := release(*out, *version, *commit, strings.Split(*only, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// architectures are those of GOARCH for which there is a binary.
var architectures = []string{"amd64", "arm64", "arm", "ppc64le", "s390x", "riscv64"}

// imaged are those for which there is an image.
var imaged = []string{"amd64", "arm64"}

func release(out, version, commit string, architectures []string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	files := map[string][]byte{}
	binaries := map[string][]byte{}
	for _, arch := range architectures {
		name := "volprep-linux-" + arch
		binary, err := build(filepath.Join(out, name), arch, version, commit)
		if err != nil {
			return err
		}
		files[name], binaries[arch] = binary, binary
	}
	var err error
	for _, k := range kinds {
		if files["volprep"+k.suffix+"-image.tar"], err = image(k, binaries, version); err != nil {
			return err
		}
	}
	if files["volprep.cdx.json"], err = billOfMaterials(filepath.Join(out, "volprep-linux-"+architectures[0]), version); err != nil {
		return err
	}
	if files["seccomp.json"], err = prep.OCIProfile(); err != nil {
		return err
	}
	files["layout.schema.json"] = spec.Schema()
	if files["volprep.1"], err = commandPage(); err != nil {
		return err
	}
	if files["volprep-layout.5"], err = layoutPage(); err != nil {
		return err
	}
	var sums bytes.Buffer
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(files[name]), name)
	}
	files["SHA256SUMS"] = sums.Bytes()
	for name, text := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "volprep-linux-") {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(out, name), text, mode); err != nil {
			return err
		}
	}
	return nil
}

// build makes the binary of one architecture. Neither the tree's place nor
// the state of its repository goes into it: -trimpath, -buildvcs=false and an empty build id.
func build(name, arch, version, commit string) ([]byte, error) {
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "urfave_cli_no_docs",
		"-ldflags", "-s -w -buildid= -X main.version="+version+" -X main.commit="+commit, "-o", name, ".")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=")
	if said, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building for %s: %w\n%s", arch, err, said)
	}
	return os.ReadFile(name)
}

// billOfMaterials lists the modules that are in a binary, as CycloneDX 1.5
// (https://cyclonedx.org/docs/1.5/json). Its time and serial number, which may be left out, are.
func billOfMaterials(binary, version string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	type component struct {
		Type    string `json:"type"`
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
		PURL    string `json:"purl,omitempty"`
	}
	components := []component{{Type: "library", Name: "std", Version: strings.TrimPrefix(info.GoVersion, "go"), PURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}}
	for _, module := range info.Deps {
		components = append(components, component{Type: "library", Name: module.Path, Version: module.Version, PURL: "pkg:golang/" + module.Path + "@" + module.Version})
	}
	return marshal(struct {
		Format     string      `json:"bomFormat"`
		Spec       string      `json:"specVersion"`
		Version    int         `json:"version"`
		Metadata   any         `json:"metadata"`
		Components []component `json:"components"`
	}{"CycloneDX", "1.5", 1, map[string]component{"component": {Type: "application", Name: info.Path, Version: version}}, components})
}

func marshal(value any) ([]byte, error) {
	text, err := json.MarshalIndent(value, "", "  ")
	return append(text, '\n'), err
}
