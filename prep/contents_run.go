package prep

import (
	"errors"

	"golang.org/x/sys/unix"

	"volprep/spec"
)

// walkContents brings what lies in a volume to what the layout's contents say
// or, for plan and verify, counts what differs. It comes after the declared
// directories and before the volume's root, so that a root that is right says
// that all below it was finished.
func (e *engine) walkContents(n *node, fd int, rootRight bool) {
	readOnly := e.report.Command != "apply"
	walk := Contents{
		Kernel: e.kernel, Root: fd, RootPath: n.path, Rules: *n.volume.Contents, Umask: n.volume.Umask,
		RootRight: rootRight, ReadOnly: readOnly,
		Jobs: e.options.Jobs, Shard: e.options.Shard, Count: e.options.Shards,
		Caller: &e.caller, Borrow: e.options.Borrow, Log: e.log,
		ProgressEvery: e.options.ProgressEvery,
	}
	if readOnly {
		walk.Borrow = BorrowNever
	}
	if n.volume.Root.Attributes != (spec.Attributes{}) {
		walk.Declared = append(walk.Declared, ".")
	}
	for _, directory := range n.volume.Directories {
		walk.Declared = append(walk.Declared, directory.Path)
	}
	if e.options.Progress != nil {
		walk.Progress = func(at ContentsProgress) { e.options.Progress(n.path, at) }
	}
	if e.log.Debug().Enabled() {
		walk.Entry = func(path string, have, want State) {
			e.log.Debug().Str("path", printable(path)).Str("from", have.String()).Str("to", want.String()).Msg("entry")
		}
	}
	result, err := walk.Walk(e.ctx)
	if errors.Is(err, unix.EACCES) && readOnly {
		e.unknown(n, n.path)
		err = nil
	}
	e.report.Contents = append(e.report.Contents, Walked{
		Path: n.path, Scanned: result.Scanned, Changed: result.Changed, Vanished: result.Vanished,
		Refused: result.RefusedCount, Failed: result.FailedCount, Borrows: result.Borrows, Trusted: result.RootRight,
		ClearedSetid: result.ClearedSetid, ClearedCapabilities: result.ClearedCapabilities, Cleared: result.Cleared,
	})
	e.report.Summary.Scanned += result.Scanned
	if result.Changed > 0 && !readOnly {
		e.used("CAP_CHOWN")
		e.used("CAP_FOWNER")
	}
	for _, refusal := range result.Refused {
		e.fail(n, &Failure{Path: refusal.Path, Doing: "changing the entry", Err: errors.New(refusal.Why), Mend: refusal.Mend, Class: ClassRefused})
	}
	for _, failure := range result.Failed {
		e.fail(n, e.failed(failure.Path, failure.Doing, failure.Err, &failure.Have))
	}
	for _, path := range result.Opaque {
		e.report.Unknown = append(e.report.Unknown, unknownBehind(path, path))
	}
	if err != nil {
		e.fail(n, e.failed(n.path, "walking its contents", err, nil))
	}
	e.log.Info().Str("path", printable(n.path)).Int64("scanned", result.Scanned).Int64("changed", result.Changed).Msg("contents")
}
