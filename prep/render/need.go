package render

import (
	"slices"
	"strings"

	"volprep/prep"
)

// need is who runs volprep, and with what.
type need struct {
	prep.Credentials
	capabilities prep.Capabilities
	// self: the server itself does it, for the layout needs no capability.
	self bool
	why  string
}

// need decides. The server itself runs volprep where nothing of the layout
// needs a capability and it can write the volumes' roots, which given tells of
// each. Else uid 0 does: with CAP_CHOWN alone where all volumes begin empty
// with each pod and a plan says that this is enough, at first and again;
// otherwise with CAP_FOWNER too, for what belongs to others already.
func (o Options) need(volumes []volume, given func(volume) bool) need {
	none := prep.NeedsNone(o.Layout, o.As)
	if none && !prep.NamesOwners(o.Layout) {
		return need{Credentials: o.As, self: true, why: "no capability is needed: the layout names no owner. The volumes must belong to " + o.As.String()}
	}
	if none && !slices.ContainsFunc(volumes, func(v volume) bool { return prep.RootNamed(v.Volume) || !given(v) }) {
		return need{Credentials: o.As, self: true, why: "no capability is needed: all is the server's own"}
	}
	n := need{Credentials: prep.Credentials{Groups: o.As.Groups}}
	for _, v := range volumes {
		switch {
		case v.source == emptyDir:
			n.capabilities |= prep.NeededWhenEmpty(v.Volume, prep.Caller(n.Credentials))
		case prep.RootNamed(v.Volume) || len(v.Directories) > 0 || v.Contents != nil:
			n.capabilities |= prep.CapChown | prep.CapFowner
		}
	}
	switch n.capabilities {
	case prep.CapChown:
		n.why = "CHOWN hands over what is made; nothing here belongs to others before"
	case 0:
		n.why = "the layout hands nothing over"
	default:
		n.why = "CHOWN hands over what is made, FOWNER sets what belongs to others already"
	}
	return n
}

// added are the capabilities as container runtimes name them.
func (n need) added() []string {
	names := n.capabilities.Names()
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], "CAP_")
	}
	return names
}
