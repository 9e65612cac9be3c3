package prep

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// Proof is one verb of an expectation, held against the volumes.
type Proof struct {
	As   string    `json:"as"`
	Path string    `json:"path"`
	Verb spec.Verb `json:"verb"`
	Want bool      `json:"want"`
	// Made is "file" or "directory" where the verb is about what another
	// identity makes at the path.
	Made   string `json:"made,omitempty"`
	By     string `json:"by,omitempty"`
	Result string `json:"result"` // held, broken or unknown
	Why    string `json:"why"`
	Mend   string `json:"mend,omitempty"`
}

// errUnseen: a component of the way lies behind a directory that may not be looked into.
var errUnseen = errors.New("it lies behind a directory that this process may not look into")

// Prove holds expectations against the states that look finds on the way to a path.
func Prove(expectations []spec.Expectation, look func(path string) ([]Component, error)) []Proof {
	var proofs []Proof
	for _, x := range expectations {
		chain, err := look(x.Path)
		add := func(proof Proof, verdict Verdict) {
			proof.Why, proof.Mend = verdict.Why, verdict.Mend
			switch {
			case err != nil:
				proof.Result, proof.Why = "unknown", err.Error()
				if !errors.Is(err, errUnseen) {
					proof.Result = "broken"
				}
			case verdict.Allowed == proof.Want:
				proof.Result, proof.Mend = "held", ""
			default:
				proof.Result = "broken"
			}
			proofs = append(proofs, proof)
		}
		prove := func(verbs []spec.Verb, want bool) {
			for _, verb := range verbs {
				var verdict Verdict
				if err == nil {
					verdict = Can(credentialsOf(x.As), chain, verb)
				}
				add(Proof{As: x.As.Name, Path: x.Path, Verb: verb, Want: want}, verdict)
			}
		}
		prove(x.Can, true)
		prove(x.Cannot, false)
		for _, creation := range x.Creates {
			for _, verb := range creation.Can {
				var verdict Verdict
				if err == nil {
					verdict = canWithCreated(x.As, chain, creation, verb)
				}
				made := "file"
				if creation.Directory {
					made = "directory"
				}
				add(Proof{As: creation.Who.Name, Path: x.Path, Verb: verb, Want: true, Made: made, By: x.As.Name}, verdict)
			}
		}
	}
	return proofs
}

// canWithCreated tells what one identity may do with what another makes.
func canWithCreated(creator spec.Identity, chain []Component, creation spec.Creation, verb spec.Verb) Verdict {
	if made := Can(credentialsOf(creator), chain, spec.Create); !made.Allowed {
		return made
	}
	mode, name := uint32(0o666), "a file"
	if creation.Directory {
		mode, name = 0o777, "a directory"
	}
	parent := chain[len(chain)-1]
	child := Component{
		Path:     parent.Path + "/(" + name + " of " + creator.Name + ")",
		State:    Inherit(parent.State, mode, creation.Directory, creator.UID, creator.GID, creator.Umask),
		ReadOnly: parent.ReadOnly,
	}
	verdict := Can(credentialsOf(creation.Who), append(append([]Component{}, chain...), child), verb)
	if !verdict.Allowed && verdict.At == child.Path {
		verdict.Mend = "widen the default_acl of " + printable(parent.Path) + ", which decides what is made there whatever the umask"
		if parent.State.Default.Empty() {
			verdict.Mend = "add default_acl: [umask] to " + printable(parent.Path) + ", which then decides what is made there whatever the umask of who makes it"
		}
	}
	return verdict
}

// prove proves the layout's expectations, as far as they lie in what the run takes.
func (e *engine) prove(layout *spec.Layout) {
	if e.ctx.Err() != nil {
		return
	}
	e.report.Expectations = Prove(layout.Expect, func(path string) ([]Component, error) { return e.chain(layout, path) })
	for _, proof := range e.report.Expectations {
		if proof.Result == "held" || proof.Result == "unknown" && e.options.AllowUnknown {
			continue
		}
		e.report.AddFailure(&Failure{Path: proof.Path, Doing: proof.expected(), Err: errors.New(proof.Why), Mend: cmpOr(proof.Mend, "make the layout and the expectation agree"), Class: ClassExpectation})
	}
}

// expected is the expectation in words.
func (p Proof) expected() string {
	can := "can"
	if !p.Want {
		can = "cannot"
	}
	what := ""
	if p.Made != "" {
		what = " what " + p.By + " makes there, a " + p.Made
	}
	return fmt.Sprintf("expecting that %s %s %s%s", p.As, can, p.Verb, what)
}

// chain are the components from a volume's root to a path: what this run read
// back, or would make, else what is there.
func (e *engine) chain(layout *spec.Layout, path string) ([]Component, error) {
	for i := range layout.Volumes {
		volume := &layout.Volumes[i]
		if path == volume.Path || strings.HasPrefix(path, volume.Path+"/") {
			return e.chainIn(volume, path)
		}
	}
	return nil, fmt.Errorf("%s lies in no volume of the layout", printable(path))
}

func (e *engine) chainIn(volume *spec.Volume, path string) ([]Component, error) {
	at, err := e.locate(plant(volume))
	if err != nil {
		return nil, err
	}
	defer at.close(e.kernel)
	readOnly := false
	fd := at.root
	if fd >= 0 {
		var stat unix.Statfs_t
		readOnly = e.kernel.Fstatfs(fd, &stat) == nil && stat.Flags&unix.ST_RDONLY != 0
	}
	var chain []Component
	add := func(path string, state State) {
		if known, ok := e.final[path]; ok {
			state = known
		}
		chain = append(chain, Component{Path: path, State: state, ReadOnly: readOnly})
	}
	where := volume.Path
	names := strings.FieldsFunc(strings.TrimPrefix(path, volume.Path), func(r rune) bool { return r == '/' })
	for i := 0; ; i++ {
		info := inodeInfo{State: State{Type: fs.ModeDir}}
		if fd >= 0 {
			if info, err = look(e.kernel, fd); err != nil {
				return nil, err
			}
		} else if _, ok := e.final[where]; !ok {
			return nil, fmt.Errorf("%s does not exist", printable(where))
		}
		add(where, info.State)
		if i == len(names) {
			return chain, nil
		}
		where += "/" + names[i]
		if fd < 0 {
			continue
		}
		below, err := e.walker.below(fd, names[i])
		if fd != at.root {
			e.kernel.Close(fd)
		}
		fd = below
		_, known := e.final[where]
		if err == unix.EACCES && !known {
			return nil, fmt.Errorf("%s: %w", printable(where), errUnseen)
		}
		if err != nil && !known {
			return nil, fmt.Errorf("%s: %w", printable(where), err)
		}
		if err != nil {
			fd = -1
		}
		if i == len(names)-1 && fd >= 0 {
			defer e.kernel.Close(fd)
		}
	}
}
