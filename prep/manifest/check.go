package manifest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"volprep/prep"
	"volprep/spec"
)

// Level tells what must be mended from what should be.
type Level string

// The levels.
const (
	Error   Level = "error"
	Warning Level = "warning"
)

// Finding is one thing that a manifest and a layout do not agree about, or
// that gives more privilege than is needed.
type Finding struct {
	Level Level `json:"level"`
	// Rule names the kind of finding; it stays the same between versions.
	Rule    string `json:"rule"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Field   string `json:"field"`
	Message string `json:"message"`
	Mend    string `json:"mend"`
}

// Findings are all of them, in the order of the manifests.
type Findings struct {
	List []Finding
	set  *Set
}

// Errors counts the findings of level error.
func (f Findings) Errors() int {
	n := 0
	for _, finding := range f.List {
		if finding.Level == Error {
			n++
		}
	}
	return n
}

// JSON writes the findings as one indented JSON value.
func (f Findings) JSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	list := f.List
	if list == nil {
		list = []Finding{}
	}
	return encoder.Encode(struct {
		Findings []Finding `json:"findings"`
	}{list})
}

// Text writes each finding with its line, and their number.
func (f Findings) Text(w io.Writer) {
	for _, finding := range f.List {
		problem := spec.Problem{Position: spec.Position{Line: finding.Line, Column: finding.Column}, Mend: finding.Mend,
			Message: finding.Message, Line: f.set.line(finding.File, finding.Line)}
		if finding.Level == Warning {
			problem.Severity = spec.Warning
		}
		fmt.Fprintf(w, "%s\n  %s [%s]\n", spec.Problems{Source: finding.File, List: []spec.Problem{problem}}.Error(), finding.Field, finding.Rule)
	}
	fmt.Fprintf(w, "%d to mend, %d warnings\n", f.Errors(), len(f.List)-f.Errors())
}

func (s *Set) line(file string, number int) string {
	if lines := s.lines[file]; number >= 1 && number <= len(lines) {
		return lines[number-1]
	}
	return ""
}

// checker goes through the rules for one workload.
type checker struct {
	layout   *spec.Layout
	set      *Set
	states   map[string]prep.State
	workload *Workload
	findings []Finding
}

func (c *checker) add(level Level, rule string, at At, mend, message string, args ...any) {
	finding := Finding{Level: level, Rule: rule, File: at.File, Line: at.Line, Column: at.Column, Field: at.Field, Message: fmt.Sprintf(message, args...), Mend: mend}
	if !slices.Contains(c.findings, finding) {
		c.findings = append(c.findings, finding)
	}
}

// Check holds the set against the layout.
func Check(layout *spec.Layout, set *Set) Findings {
	c := &checker{layout: layout, set: set, states: prep.Fresh(layout)}
	prepared := false
	for i := range set.Workloads {
		c.workload = &set.Workloads[i]
		if preparer := c.workload.preparer(); preparer != nil {
			prepared = true
			c.checkWorkload(preparer)
		}
	}
	if !prepared {
		at := At{}
		if len(set.Workloads) > 0 {
			at = set.Workloads[0].At
		}
		c.add(Error, "no-volprep", at, "add volprep as an init container or a service, as volprep render prints it", "nothing here runs volprep")
	}
	c.checkDirectories()
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, a.Column-b.Column)
	})
	return Findings{List: c.findings, set: set}
}

func (c *checker) checkWorkload(preparer *Container) {
	c.checkPreparer(preparer)
	c.checkPolicy(preparer)
	volumes := c.checkMounts(preparer)
	for i := range c.workload.Containers {
		container := &c.workload.Containers[i]
		views := c.views(container, volumes)
		if container.Prep || len(views) == 0 {
			continue
		}
		c.checkOrder(preparer, container, i)
		c.checkServer(container)
		c.checkAccess(container, views)
	}
	c.checkFSGroup(volumes)
}
