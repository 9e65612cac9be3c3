package manifest

import (
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// compose reads a Compose file (https://github.com/compose-spec/compose-spec).
func compose(f field) Workload {
	w := Workload{At: f.at, Kind: "Compose file", Name: filepath.Base(f.at.File), Compose: true}
	services := f.get("services")
	for _, name := range services.keys() {
		w.Containers = append(w.Containers, service(name, services.get(name)))
	}
	return w
}

func service(name string, f field) Container {
	c := Container{
		At: f.at, Name: name, Privileged: f.get("privileged"), Add: f.get("cap_add").list(), Drop: f.get("cap_drop").list(), Caps: f.get("cap_drop").at,
		UIDAt: f.get("user").at, NonRootAt: f.get("user").at, EscalatesAt: f.get("security_opt").at, Escalates: true,
		Confined: true, ConfinedAt: f.get("security_opt").at, After: map[string]string{}, AfterAt: f.get("depends_on").at,
	}
	command := f.get("entrypoint")
	c.Prep = runsVolprep(name, f.get("image").text(), command)
	uid, gid, _ := strings.Cut(f.get("user").text(), ":")
	c.UID, c.GID = number(uid), number(gid)
	for _, group := range f.get("group_add").list() {
		if id := number(group.text()); id != nil {
			c.Groups = append(c.Groups, *id)
		}
	}
	for _, option := range f.get("security_opt").list() {
		switch strings.ReplaceAll(option.text(), ":", "=") {
		case "no-new-privileges", "no-new-privileges=true":
			c.Escalates = false
		case "seccomp=unconfined":
			c.Confined, c.ConfinedAt = false, option.at
		}
	}
	for _, mount := range f.get("volumes").list() {
		if m, ok := serviceMount(mount); ok {
			c.Mounts = append(c.Mounts, m)
		}
	}
	depends := f.get("depends_on")
	for _, other := range depends.list() {
		c.After[other.text()] = "service_started"
	}
	for _, other := range depends.keys() {
		c.After[other] = depends.get(other, "condition").text()
	}
	return c
}

// number is an id, nil where it is none: a name, or a variable.
func number(text string) *uint32 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return nil
	}
	id := uint32(n)
	return &id
}

// serviceMount reads both forms of a volume.
func serviceMount(f field) (Mount, bool) {
	m := Mount{At: f.at}
	if f.get("target").there() {
		m.Volume, m.Path = f.get("source").text(), cleaned(f.get("target").text())
		m.SubPath, m.ReadOnly = f.get("volume", "subpath").text(), f.get("read_only").is(true)
		return m, m.Volume != ""
	}
	parts := strings.Split(f.text(), ":")
	if len(parts) < 2 {
		return m, false
	}
	m.Volume, m.Path = parts[0], cleaned(parts[1])
	if len(parts) > 2 {
		for _, option := range strings.Split(parts[2], ",") {
			m.ReadOnly = m.ReadOnly || option == "ro"
		}
	}
	return m, true
}

// cleaned is an absolute path without anything odd in it; "" stays.
func cleaned(name string) string {
	if name == "" {
		return ""
	}
	return path.Clean("/" + name)
}
