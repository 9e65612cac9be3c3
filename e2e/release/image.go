package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// descriptor is how one part of an image names another
// (https://github.com/opencontainers/image-spec/blob/main/descriptor.md).
type descriptor struct {
	MediaType string         `json:"mediaType"`
	Digest    string         `json:"digest"`
	Size      int            `json:"size"`
	Platform  map[string]any `json:"platform,omitempty"`
	Notes     map[string]any `json:"annotations,omitempty"`
}

// labels are those of the Dockerfile.
var labels = map[string]string{
	"org.opencontainers.image.title":       "volprep",
	"org.opencontainers.image.description": "Prepares volumes before an inference server starts, with CAP_CHOWN and CAP_FOWNER alone",
	"org.opencontainers.image.licenses":    "Apache-2.0",
}

// layout collects the blobs of an image layout.
type layout struct {
	names []string
	blobs map[string][]byte
}

func digest(blob []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(blob)) }

// blobName is a blob's path in the layout.
func blobName(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func (l *layout) add(mediaType string, blob []byte) descriptor {
	name := blobName(digest(blob))
	if _, there := l.blobs[name]; !there {
		l.names = append(l.names, name)
	}
	l.blobs[name] = blob
	return descriptor{MediaType: mediaType, Digest: digest(blob), Size: len(blob)}
}

// kind is one of the ways in which an image runs volprep.
type kind struct {
	suffix string // of the image's tag and of the file's name
	user   string
	// extended are the binary's extended attributes, as records of the layer's tar.
	extended map[string]string
}

// kinds: as root in name, and as a plain user by capabilities of the file.
// The latter are permitted and not effective (cap_chown,cap_fowner=p): the
// kernel refuses to start a file with effective ones where the container lacks
// them, even for --help (capabilities(7), "Safety checking for capability-dumb
// binaries"). The bytes are struct vfs_cap_data of linux/capability.h,
// revision 2: CAP_CHOWN is bit 0 and CAP_FOWNER bit 3.
var kinds = []kind{
	{"", "0", nil},
	{"-nonroot", "65532", map[string]string{
		"SCHILY.xattr.security.capability": "\x00\x00\x00\x02" + "\x09\x00\x00\x00" + strings.Repeat("\x00", 12),
	}},
}

// archive is a tar of files, whose bytes depend on nothing but them.
func archive(names []string, files map[string][]byte, mode int64, extended map[string]string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(files[name])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if len(extended) > 0 {
			header.PAXRecords, header.Format = extended, tar.FormatPAX
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// image is an OCI image layout in a tar: one layer with the binary, for each
// architecture that there is a binary of, and an image for.
func image(k kind, binaries map[string][]byte, version string) ([]byte, error) {
	l := &layout{blobs: map[string][]byte{}}
	if version == "" {
		version = "latest"
	}
	version += k.suffix
	var manifests []descriptor
	// What engines without an image store of their own read in place of the index (docker load).
	var loads []map[string]any
	for _, arch := range imaged {
		binary, ok := binaries[arch]
		if !ok {
			continue
		}
		layer, err := archive([]string{"volprep"}, map[string][]byte{"volprep": binary}, 0o755, k.extended)
		if err != nil {
			return nil, err
		}
		var zipped bytes.Buffer
		w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(layer); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		config, err := marshal(map[string]any{
			"architecture": arch, "os": "linux",
			"config": map[string]any{"User": k.user, "Entrypoint": []string{"/volprep"}, "Cmd": []string{"apply"}, "Labels": labels},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
		})
		if err != nil {
			return nil, err
		}
		configured, layered := l.add("application/vnd.oci.image.config.v1+json", config), l.add("application/vnd.oci.image.layer.v1.tar+gzip", zipped.Bytes())
		manifest, err := marshal(map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
			"config": configured, "layers": []descriptor{layered},
		})
		if err != nil {
			return nil, err
		}
		one := l.add("application/vnd.oci.image.manifest.v1+json", manifest)
		one.Platform = map[string]any{"architecture": arch, "os": "linux"}
		manifests = append(manifests, one)
		tag := "volprep:" + version
		if arch != imaged[0] {
			tag += "-" + arch
		}
		loads = append(loads, map[string]any{"Config": blobName(configured.Digest), "RepoTags": []string{tag}, "Layers": []string{blobName(layered.Digest)}})
	}
	all, err := marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests})
	if err != nil {
		return nil, err
	}
	top := l.add("application/vnd.oci.image.index.v1+json", all)
	top.Notes = map[string]any{"org.opencontainers.image.ref.name": version, "io.containerd.image.name": "docker.io/library/volprep:" + version}
	index, err := marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{top}})
	if err != nil {
		return nil, err
	}
	loaded, err := marshal(loads)
	if err != nil {
		return nil, err
	}
	l.blobs["oci-layout"], l.blobs["index.json"], l.blobs["manifest.json"] = []byte(`{"imageLayoutVersion":"1.0.0"}`), index, loaded
	return archive(append([]string{"oci-layout", "index.json", "manifest.json"}, l.names...), l.blobs, 0o644, nil)
}
