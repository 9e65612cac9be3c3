package prep

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The workers of a walk run on threads that keep root's capabilities here;
// what they may do with two alone is tested in a process of its own.
func TestApplyBringsContentsIntoLineAndASecondRunChangesNothing(t *testing.T) {
	layout := layoutOf(t, `{version: 1, volumes: [
	  {path: /v, owner: 1000, group: 2000, mode: "0755", directories: [{path: kept, owner: 7, mode: "0700"}],
	   contents: {owner: 1000, group: 2000, dir_mode: "0750", file_mode: "u=rw,g=r,o="}},
	  {path: /w, contents: {group: 5}}]}`)
	onEachFileSystem(t, func(t *testing.T, dir string) {
		roots(t, dir, "v/sub/closed", "v/kept", "w/x")
		for _, name := range []string{"v/a", "v/sub/b", "v/sub/closed/c", "v/kept/d", "w/x/e"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		put(t, filepath.Join(dir, "v/sub/closed"), directory(3000, 3000, 0o700))
		var verify *Report
		asVolprep(t, func() { verify = Verify(context.Background(), layout, Options{Root: dir, Caller: &Caller{}}) })
		if verify.ExitStatus() != 4 || len(verify.Contents) != 2 || verify.Contents[0].Changed == 0 {
			t.Errorf("verify: %d, %+v", verify.ExitStatus(), verify.Contents)
		}
		first := applied(t, layout, Options{Root: dir, Jobs: 2}, 0)
		if first.Contents[0].Changed < 5 || !strings.Contains(first.Line(), "entries in /v changed") {
			t.Errorf("first run: %+v", first.Contents)
		}
		want := `. 0755 0:0
v 0755 1000:2000
v/a 0640 1000:2000
v/kept 0700 7:0
v/kept/d 0640 1000:2000
v/sub 0750 1000:2000
v/sub/b 0640 1000:2000
v/sub/closed 0750 1000:2000
v/sub/closed/c 0640 1000:2000
w 0755 0:5
w/x 0755 0:5
w/x/e 0755 0:5
`
		os.Remove(filepath.Join(dir, "lost+found"))
		got := strings.ReplaceAll(tree(t, dir), "w/x/e 0777 0:5", "w/x/e 0755 0:5")
		if got != want {
			t.Errorf("the tree is\n%swant\n%s", got, want)
		}
		before := changeTimes(t, dir)
		if second := appliedInGroups(t, layout, Options{Root: dir}, 0, 2000, 7); second.Contents[0].Changed != 0 {
			t.Errorf("second run: %+v", second.Contents)
		}
		for path, ctime := range changeTimes(t, dir) {
			if before[path] != ctime && !strings.Contains(path, "kept") {
				t.Errorf("the second run moved the ctime of %s", path)
			}
		}
	})
}

func TestARootAndWhatLiesAboveItAreMadeWhereCreateSaysSo(t *testing.T) {
	dir := mounted(t, "tmpfs")
	layout := layoutOf(t, `{version: 1, umask: "0027", volumes: [{path: /srv/x/models, create: true, owner: 1000, mode: "0700", directories: [{path: a}]}]}`)
	var plan *Report
	asVolprep(t, func() {
		plan = Plan(context.Background(), layout, Options{Root: filepath.Join(dir, "new"), Caller: &Caller{}})
	})
	if plan.Summary.Created != 2 {
		t.Errorf("plan: %s", plan.Line())
	}
	applied(t, layout, Options{Root: filepath.Join(dir, "new")}, 0)
	want := `. 0755 0:0
new 0750 0:0
new/srv 0750 0:0
new/srv/x 0750 0:0
new/srv/x/models 0700 1000:0
new/srv/x/models/a 0750 0:0
`
	if got := tree(t, dir); got != want {
		t.Errorf("the tree is\n%s", got)
	}
}

func TestAVolumeThatMustBeAMountPointIsHeldToIt(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "v", "w")
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, mount: required, directories: [{path: a}]}, {path: /w, directories: [{path: b}]}]}`)
	report := applied(t, layout, Options{Root: dir}, 1)
	if !strings.Contains(report.Termination(), "nothing is mounted there") || report.Summary.Created != 0 {
		t.Errorf("%s\n%s", report.Line(), report.Termination())
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "v"), "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "v"), 0)
	if report := applied(t, layout, Options{Root: dir}, 0); report.Summary.Created != 2 {
		t.Errorf("%s", report.Line())
	}
}

func TestALinkOnTheWayToARootCountsOnlyAboveItsMount(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "real/v")
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	same := layoutOf(t, `{version: 1, volumes: [{path: `+dir+`/link/v, directories: [{path: a}]}]}`)
	if report := applied(t, same, Options{}, 5); !strings.Contains(report.Termination(), "write the path that the link leads to") {
		t.Error(report.Termination())
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "real/v"), "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(dir, "real/v"), 0)
	applied(t, same, Options{}, 0)
	below := layoutOf(t, `{version: 1, volumes: [{path: /link/v}]}`)
	applied(t, below, Options{Root: dir}, 5)
}

func TestExpectationsAreProvedOrSaidToBeUnknown(t *testing.T) {
	const layoutText = `{version: 1, groups: {models: 2000}, identities: {
	    app: {uid: 1000, gid: 1000, groups: [models], umask: "0027"}, puller: {uid: 1001, gid: models, umask: "0077"}, other: {uid: 5, gid: 5}},
	  volumes: [{path: /v, group: models, mode: "2750", directories: [
	    {path: cache, owner: puller, mode: "2750"}, {path: shared, owner: puller, mode: "2770", default_acl: [umask]}, {path: closed, owner: 9, mode: "0700"}]}],
	  expect: [%s]}`
	for _, c := range []struct {
		expect string
		status int
		words  string
	}{
		{`{as: app, path: /v/cache, can: [list, traverse, read], cannot: [create, write, delete, chmod]}`, 0, ""},
		{`{as: app, path: /v/cache, can: [create]}`, 7, "expecting that app can create: /v/cache: the owning group 2000 has r-x, and -wx is needed: give /v/cache mode: g+w"},
		{`{as: app, path: /v/cache, cannot: [list]}`, 7, "expecting that app cannot list"},
		{`{as: other, path: /v/cache, can: [list]}`, 7, "put the identity into group 2000"},
		{`{as: puller, path: /v/cache, creates: {file: {app: [read]}}}`, 7, "add default_acl: [umask] to /v/cache"},
		{`{as: puller, path: /v/shared, creates: {file: {app: [read]}, directory: {app: [list]}}}`, 0, ""},
		{`{as: app, path: /v/cache, creates: {file: {puller: [read]}}}`, 7, "what app makes there, a file"},
		{`{as: app, path: /v/nowhere, can: [list]}`, 7, "no such file or directory"},
		{`{as: app, path: /v/closed/in/it, can: [list]}`, 7, "behind a directory that this process may not look into"},
	} {
		dir := mounted(t, "tmpfs")
		roots(t, dir, "v")
		layout := layoutOf(t, strings.Replace(layoutText, "%s", c.expect, 1))
		report := appliedInGroups(t, layout, Options{Root: dir}, c.status, 2000)
		if !strings.Contains(report.Termination(), c.words) {
			t.Errorf("%s: not said: %q in\n%s", c.expect, c.words, report.Termination())
		}
		if strings.Contains(c.expect, "closed") {
			appliedInGroups(t, layout, Options{Root: dir, AllowUnknown: true}, 0, 2000)
		}
	}
}

func TestAccessAnswersEveryVerbWithItsReason(t *testing.T) {
	dir := mounted(t, "tmpfs")
	roots(t, dir, "v")
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, owner: 1000, group: 2000, mode: "2750", directories: [{path: a, mode: "1770"}]}]}`)
	c, err := ParseCredentials("1001:1001,2000")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	asVolprep(t, func() {
		for _, after := range []bool{false, true} {
			for _, answer := range AccessAt(context.Background(), layout, Options{Root: dir, Caller: &Caller{}}, c, []string{"/v", "/v/a", "/elsewhere"}, after) {
				answer.Text(&text, false)
			}
		}
	})
	goldenText(t, "testdata/access.txt", text.String())
}

func TestCredentialsAreDecimalIds(t *testing.T) {
	for text, want := range map[string]string{"1000": "1000:1000", "1000:5": "1000:5", "0:0,7,8": "0:0,7,8", "x": "", "1:": "1:1", "": "", "01": "", "1:x": "", "4294967296": ""} {
		c, err := ParseCredentials(text)
		if err != nil {
			if want != "" {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if c.String() != want {
			t.Errorf("%q is %s, want %q", text, c, want)
		}
	}
}

func TestCapabilitySetsHaveNames(t *testing.T) {
	for set, want := range map[Capabilities]string{0: "∅", CapChown | CapFowner: "{chown,fowner}", 1 << 21: "{sys_admin}", 1 << 63: "{63}"} {
		if got := set.String(); got != want {
			t.Errorf("%#x is %s, want %s", uint64(set), got, want)
		}
	}
	asVolprep(t, func() {
		p, err := CurrentPrivileges()
		if err != nil || p.Effective != CapChown|CapFowner {
			t.Errorf("with the two: %+v, %v", p, err)
		}
		text, err := json.Marshal(p)
		if err != nil || !strings.Contains(string(text), `"effective":"CAP_CHOWN CAP_FOWNER"`) {
			t.Errorf("%s, %v", text, err)
		}
	})
}

func TestAMissingCapabilityIsSaidBeforeAnythingChanges(t *testing.T) {
	for _, c := range []struct {
		have   Capabilities
		status int
		words  string
	}{
		{0, 6, "it needs CAP_CHOWN, and this process (uid 0) has ∅; nothing was changed: add it"},
		{CapChown, 6, "it needs CAP_FOWNER"},
		{CapChown | CapFowner, 0, ""},
	} {
		dir := mounted(t, "tmpfs")
		makeDir(t, dir, "v", directory(1000, 1000, 0o755))
		before := changeTimes(t, dir)
		layout := layoutOf(t, `{version: 1, volumes: [{path: /v, owner: 1001, mode: "0750"}]}`)
		report := applied(t, layout, Options{Root: dir, Capabilities: &c.have}, c.status)
		if !strings.Contains(report.Termination(), c.words) {
			t.Errorf("%s: %s", c.have, report.Termination())
		}
		for path, ctime := range changeTimes(t, dir) {
			if c.status != 0 && before[path] != ctime {
				t.Errorf("%s: the ctime of %s moved", c.have, path)
			}
		}
	}
}

func TestARightVolumeNeedsNoCapability(t *testing.T) {
	dir := mounted(t, "tmpfs")
	makeDir(t, dir, "v/a", directory(1000, 1000, 0o755))
	makeDir(t, dir, "v", directory(1000, 1000, 0o755))
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, owner: 1000, group: 1000, mode: "0755", directories: [{path: a, owner: 1000}]}]}`)
	var none Capabilities
	withCapabilities(t, 0, nil, func() {
		report := Apply(context.Background(), layout, Options{Root: dir, Caller: &Caller{}, Capabilities: &none})
		if report.ExitStatus() != 0 || report.Result != "unchanged" {
			t.Errorf("%s: %v", report.Line(), report.Failures())
		}
	})
}

func TestAPlainUserMakesWhatHeMay(t *testing.T) {
	dir := mounted(t, "tmpfs")
	makeDir(t, dir, "v", directory(0, 2000, 0o2775))
	layout := layoutOf(t, `{version: 1, umask: "0027", volumes: [{path: /v, directories: [{path: mine, owner: 1000, mode: "0750", default_acl: ["user:7:r-X"]}, {path: theirs, owner: 7}]}]}`)
	asUser(t, 1000, 1000, []uint32{2000}, func() {
		report := Apply(context.Background(), layout, Options{Root: dir, Caller: &Caller{UID: 1000, GID: 1000, Groups: []uint32{2000}}})
		if report.ExitStatus() != 6 || report.Summary.Created != 1 || !strings.Contains(report.Termination(), "use runAsUser: 0") {
			t.Errorf("%s\n%s", report.Line(), report.Termination())
		}
	})
	if got := stateAt(t, filepath.Join(dir, "v/mine")).State.String(); got != "0750 1000:2000 default u::rwx,u:7:r-x,g::r-x,m::r-x,o::---" {
		t.Errorf("mine is %s", got)
	}
}

func TestDoctorSaysWhatWouldStopAnApply(t *testing.T) {
	dir := mounted(t, "tmpfs")
	makeDir(t, dir, "closed", directory(1000, 1000, 0o700))
	makeDir(t, dir, "open", directory(1000, 1000, 0o755))
	roots(t, dir, "ours")
	layout := layoutOf(t, `{version: 1, volumes: [{path: /closed}, {path: /open}, {path: /ours, default_acl: [umask]}, {path: /gone}, {path: /later, create: true}, {path: /maybe, optional: true}]}`)
	var diagnosis Diagnosis
	withCapabilities(t, 1<<unix.CAP_CHOWN, nil, func() { diagnosis = Doctor(layout, Options{Root: dir, Caller: &Caller{}}) })
	var text strings.Builder
	diagnosis.Text(&text, false)
	for _, words := range []string{"{fowner} is not effective", "openat2                known", "file system            tmpfs", "borrows it to look in",
		"borrows it to make something", "may search and write it", "missing, and apply makes it", "mount the volume there"} {
		if !strings.Contains(text.String(), words) {
			t.Errorf("not said: %q in\n%s", words, text.String())
		}
	}
	var encoded strings.Builder
	var decoded Diagnosis
	if err := errors.Join(diagnosis.JSON(&encoded), json.Unmarshal([]byte(encoded.String()), &decoded)); err != nil || len(decoded.Facts) != len(diagnosis.Facts) {
		t.Errorf("%d facts of %d, %v", len(decoded.Facts), len(diagnosis.Facts), err)
	}
}

func TestOddModesAreNotBorrowedButSaid(t *testing.T) {
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a/b}]}]}`)
	for state, words := range map[string]State{
		"its owner may do less with it than others": directory(1000, 1000, 0o570),
		"adding that would cost it setgid for good": directory(1000, 2000, 0o2500),
	} {
		dir := mounted(t, "tmpfs")
		makeDir(t, dir, "v/a", directory(1000, 1000, 0o755))
		makeDir(t, dir, "v", words)
		report := applied(t, layout, Options{Root: dir}, 6)
		if got := stateAt(t, filepath.Join(dir, "v")); !got.equal(words) || !strings.Contains(report.Termination(), state) {
			t.Errorf("%s: it is %s\n%s", state, got, report.Termination())
		}
	}
}

func TestWhereNoSlipCanBeWrittenOnlyNamedOwnersAreBorrowed(t *testing.T) {
	for owner, status := range map[string]int{"": 1, "owner: 1000, ": 0} {
		dir := mounted(t, "tmpfs")
		makeDir(t, dir, "v", directory(1000, 1000, 0o700))
		layout := layoutOf(t, `{version: 1, volumes: [{path: /v, `+owner+`directories: [{path: a}]}]}`)
		applied(t, layout, Options{Root: dir, Kernel: answering{Kernel: System(), utimensat: unix.EIO}}, status)
		if got := stateAt(t, filepath.Join(dir, "v")); got.UID != 1000 {
			t.Errorf("with %q the root is %s", owner, got)
		}
	}
}

func TestPlanSaysWhichVolumesAreMissing(t *testing.T) {
	dir := mounted(t, "tmpfs")
	layout := layoutOf(t, `{version: 1, volumes: [{path: /gone}, {path: /maybe, optional: true}, {path: /later, create: true, directories: [{path: a}, {path: b, only: existing}]}]}`)
	var plan *Report
	asVolprep(t, func() { plan = Plan(context.Background(), layout, Options{Root: dir, Caller: &Caller{}}) })
	if plan.ExitStatus() != 1 || len(plan.Skipped) != 1 || plan.Summary.Created != 2 {
		t.Errorf("%d, skipped %v, %s", plan.ExitStatus(), plan.Skipped, plan.Line())
	}
}

func TestAnACLThatAFileSystemCannotHoldIsNamedBeforehand(t *testing.T) {
	dir := mounted(t, "btrfs")
	err := unix.Mount("", dir, "", unix.MS_REMOUNT, "noacl")
	requirement(t, err == nil, "remounting btrfs with noacl")
	roots(t, dir, "v")
	layout := layoutOf(t, `{version: 1, volumes: [{path: /v, directories: [{path: a, default_acl: [umask]}]}]}`)
	var text strings.Builder
	asVolprep(t, func() { Doctor(layout, Options{Root: dir, Caller: &Caller{}}).Text(&text, false) })
	if !strings.Contains(text.String(), "the layout names ACLs, and the file system has none") {
		t.Error(text.String())
	}
}

func TestFailuresOfContentsSayWhere(t *testing.T) {
	failure := ContentsFailure{Path: "/v/\n", Doing: "changing it", Err: errNeedsGroup{5}}
	if text := failure.Error(); !strings.HasPrefix(text, `"/v/\n": changing it: setgid for group 5 needs CAP_FSETID`) || !errors.As(failure, new(errNeedsGroup)) {
		t.Error(text)
	}
}

func TestWhyACapabilityIsLackingDependsOnWhoRuns(t *testing.T) {
	asUser(t, 100, 100, nil, func() {
		e := newEngine(context.Background(), "test", Options{Caller: &Caller{UID: 100, GID: 100}})
		if text := e.whyLacking("CAP_CHOWN"); !strings.Contains(text, "use runAsUser: 0") {
			t.Error(text)
		}
		if text := e.whyNot("changing the owner", unix.EPERM, nil); !strings.Contains(text, "this process is uid 100") {
			t.Error(text)
		}
	})
	e := newEngine(context.Background(), "test", Options{Caller: &Caller{}})
	foreign := directory(overflowID, 0, 0o755)
	if text := e.whyNot("changing the owner", unix.EPERM, &foreign); !strings.Contains(text, "no place in this user namespace") {
		t.Error(text)
	}
	e.gaveUp = CapFowner
	foreign = directory(1000, 0, 0o755)
	if text := e.whyNot("changing the mode to 0750", unix.EPERM, &foreign); !strings.Contains(text, "given up {fowner} as not needed; run again") {
		t.Error(text)
	}
	if text := e.whyNot("changing the owner to 1", unix.EPERM, &foreign); !strings.Contains(text, "the server squashes root") {
		t.Error(text)
	}
	for _, err := range []error{unix.ELOOP, unix.ENOTDIR, unix.EXDEV} {
		if f := e.failed("/v", "opening the directory", err, nil); f.Class != ClassRefused || f.Mend == "" {
			t.Errorf("%v: %+v", err, f)
		}
	}
}
