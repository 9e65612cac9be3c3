package manifest

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"volprep/prep"
	"volprep/spec"
)

// checkAccess: a server can do on each view what its mount and the layout's
// expectations say.
func (c *checker) checkAccess(server *Container, views []view) {
	if server.UID == nil {
		c.add(Warning, "uid-unknown", server.UIDAt, "say the uid, so that it can be held against the layout", "the uid of %q is the image's to say", server.Name)
		return
	}
	known := func(identity spec.Identity) bool { return identity.UID == *server.UID }
	if len(c.layout.Identities) > 0 && !slices.ContainsFunc(c.layout.Identities, known) {
		c.add(Warning, "uid-unknown", server.UIDAt, "add it to the layout's identities, or run it as one of them", "uid %d of %q is none of the layout's identities", *server.UID, server.Name)
	}
	for _, v := range views {
		c.checkView(server, v)
		for _, x := range c.layout.Expect {
			if _, inside := within(x.Path, v.start); inside && known(x.As) {
				c.checkExpectation(server, v, x)
			}
		}
	}
}

// chain are the components from a view's start to a path of the layout; nil
// where the layout does not say all of them.
func (c *checker) chain(v view, name string) []prep.Component {
	var chain []prep.Component
	for at := name; ; at = path.Dir(at) {
		state, ok := c.states[at]
		if !ok {
			return nil
		}
		chain = append(chain, prep.Component{Path: at, State: state, ReadOnly: v.mount.ReadOnly})
		if at == v.start {
			slices.Reverse(chain)
			return chain
		}
	}
}

// checkView: whoever mounts a volume wants to go in, and whoever mounts it
// writable wants to create something, somewhere.
func (c *checker) checkView(server *Container, v view) {
	chain := c.chain(v, v.start)
	if chain == nil {
		c.add(Warning, "path-unknown", v.mount.At, "list it in the layout", "the layout does not say how %q, which %q mounts, must look", v.start, server.Name)
		return
	}
	enter := prep.Can(server.credentials(), chain, spec.Traverse)
	if !enter.Allowed {
		c.add(Error, "access", v.mount.At, enter.Mend, "%q cannot enter %q: %s", server.Name, v.where, enter.Why)
		return
	}
	if v.mount.ReadOnly {
		return
	}
	for name := range c.states {
		if _, inside := within(name, v.start); inside {
			if chain := c.chain(v, name); chain != nil && prep.Can(server.credentials(), chain, spec.Create).Allowed {
				return
			}
		}
	}
	create := prep.Can(server.credentials(), chain, spec.Create)
	mend := create.Mend
	creates := func(x spec.Expectation) bool {
		_, inside := within(x.Path, v.start)
		return inside && x.As.UID == *server.UID && slices.Contains(x.Can, spec.Create)
	}
	if !slices.ContainsFunc(c.layout.Expect, creates) {
		mend = "mount it readOnly, or " + mend
	}
	c.add(Error, "access", v.mount.At, mend, "%q mounts %q writable, and can create nothing there: %s", server.Name, v.where, create.Why)
}

func (c *checker) checkExpectation(server *Container, v view, x spec.Expectation) {
	chain := c.chain(v, x.Path)
	if chain == nil {
		return
	}
	rest, _ := within(x.Path, v.start)
	where := path.Join(v.where, rest)
	for _, verb := range x.Can {
		if verdict := prep.Can(server.credentials(), chain, verb); !verdict.Allowed {
			c.add(Error, "expectation", v.mount.At, c.mendAccess(server, x, verdict), "%q, which is %s, cannot %s %q: %s", server.Name, x.As.Name, verb, where, verdict.Why)
		}
	}
	for _, verb := range x.Cannot {
		if verdict := prep.Can(server.credentials(), chain, verb); verdict.Allowed {
			c.add(Error, "expectation", v.mount.At, "take the group away, or change the expectation", "%q, which is %s, can %s %q, and the layout expects that it cannot: %s", server.Name, x.As.Name, verb, where, verdict.Why)
		}
	}
}

// mendAccess: where the identity has groups that the container has not, those
// are what is missing.
func (c *checker) mendAccess(server *Container, x spec.Expectation, verdict prep.Verdict) string {
	var missing []string
	for _, group := range append([]uint32{x.As.GID}, x.As.Groups...) {
		if !slices.Contains(server.Groups, group) && (server.GID == nil || *server.GID != group) {
			missing = append(missing, fmt.Sprint(group))
		}
	}
	if len(missing) == 0 {
		return verdict.Mend
	}
	list := strings.Join(missing, ", ")
	if c.workload.Compose {
		return "say group_add: [" + list + "], as the identity has it"
	}
	return "say supplementalGroups: [" + list + "] for the pod, as the identity has it"
}
