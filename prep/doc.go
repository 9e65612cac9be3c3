// Package prep is volprep's engine: it brings volumes to what a layout says,
// as uid 0 with CAP_CHOWN and CAP_FOWNER alone.
//
// A run goes one way. It shuts itself in (sandbox.go, seccomp.go), plans, and
// gives up the capabilities that the plan does not need (capabilities.go). A volume's root is located (walk.go) and its layout
// planted as a tree of nodes (tree.go). Each directory is looked at through a
// descriptor (state.go), the state it must have is computed from what it has
// and what the layout names (tree.go, inherit.go), and the order of calls from
// the one to the other is taken from one table (order.go). Apply carries that
// out, children first (apply.go), with new directories made out of everybody's
// reach (stage.go) and closed ones borrowed (borrow.go); Plan and Verify only
// tell (survey.go). What lies in a volume already is walked by [Contents].
// Expectations are proved by computing what the kernel would decide (access.go,
// expect.go). All of it ends in a [Report]. The other way round, [Capture] makes
// a layout of what is there.
//
// What never is traded away:
//
//   - A path is for messages. Only descriptors act, one component is opened
//     below another, and no symbolic link below a volume's root is followed.
//   - At no instant is anything more open than the wider of before and after.
//   - What the layout does not name is not touched, and what is right is not
//     written, so a second run moves no ctime.
//   - A run that is killed at any call leaves what the next one completes.
//   - Success is what was read back.
//   - Every system call on a volume goes through [Kernel].
package prep
