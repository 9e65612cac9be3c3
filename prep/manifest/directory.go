package manifest

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"volprep/prep"
	"volprep/spec"
)

// executable are names of directories whose contents a server runs: compiled
// kernels, engines and model repositories (cases of vLLM's and Triton's
// security guides).
var executable = []string{"torch_compile_cache", "torchinductor", "inductor", ".triton", "triton-cache", "triton_cache", "jit-cache", "jit_cache",
	"compile-cache", "compile_cache", "engines", "engine-cache", "engine_cache", "model-repository", "model_repository", "lora", "adapters"}

func groupName(layout *spec.Layout, gid uint32) string {
	for _, group := range layout.Groups {
		if group.GID == gid {
			return fmt.Sprintf("%d (%s)", gid, group.Name)
		}
	}
	return fmt.Sprint(gid)
}

// checkDirectories: what the layout itself does to its users.
func (c *checker) checkDirectories() {
	for _, volume := range c.layout.Volumes {
		for _, directory := range append([]spec.Directory{volume.Root}, volume.Directories...) {
			name := path.Join(volume.Path, directory.Path)
			state, ok := c.states[name]
			if !ok {
				continue
			}
			at := At{File: c.layout.Source, Line: directory.Position.Line, Column: directory.Position.Column, Field: name}
			if slices.Contains(executable, strings.ToLower(path.Base(name))) {
				c.checkExecutable(at, name, state)
			}
			c.checkSharing(at, name, state)
		}
	}
}

// checkExecutable: whoever writes such a directory runs code as its server.
func (c *checker) checkExecutable(at At, name string, state prep.State) {
	who := ""
	switch {
	case state.Mode&0o002 != 0:
		who = "everybody"
	case state.Mode&0o020 != 0 && !state.Access.Extended():
		who = "group " + groupName(c.layout, state.GID)
	default:
		mask, _ := state.Access.Get(spec.TagMask)
		for _, entry := range state.Access.Entries {
			if entry.Tag != spec.TagUserObj && entry.Tag != spec.TagMask && entry.Perm&mask&spec.PermWrite != 0 {
				who = "whom its ACL names (" + entry.String() + ")"
				break
			}
		}
	}
	if who != "" {
		c.add(Error, "executable-content", at, "give it to the one identity that fills it, with mode 0750 or less, and let others read", "%q holds what its server executes, and %s may write it", name, who)
	}
}

// checkSharing: what one of a directory's users makes there, the others can read.
func (c *checker) checkSharing(at At, name string, state prep.State) {
	var users []spec.Identity
	for _, identity := range c.layout.Identities {
		component := prep.Component{Path: name, State: state}
		if prep.Can(credentials(identity), []prep.Component{component}, spec.Create).Allowed {
			users = append(users, identity)
		}
	}
	for _, maker := range users {
		made := prep.Component{Path: name + "/(a file of " + maker.Name + ")", State: prep.Inherit(state, 0o666, false, maker.UID, maker.GID, maker.Umask)}
		for _, reader := range users {
			verdict := prep.Can(credentials(reader), []prep.Component{{Path: name, State: state}, made}, spec.Read)
			if !verdict.Allowed {
				c.add(Warning, "sharing", at, "give it a default_acl that lets the group read, and setgid",
					"%s and %s share %q, and what %s makes there with umask %04o is not for %s to read", maker.Name, reader.Name, name, maker.Name, maker.Umask, reader.Name)
				return
			}
		}
	}
}

func credentials(identity spec.Identity) prep.Credentials {
	return prep.Credentials{UID: identity.UID, GID: identity.GID, Groups: identity.Groups}
}
