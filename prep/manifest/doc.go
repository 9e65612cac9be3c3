// Package manifest holds Kubernetes manifests and Compose files against a
// layout, before anything runs: whether volprep gets what it needs and no
// more, whether each workload that shares a volume can do there what it must,
// and whether something else will undo what volprep did.
//
// [Decode] reads the few fields that matter, each with its place (field.go,
// kubernetes.go, compose.go), into one model for both (workload.go). [Check]
// goes through the rules (check.go), by what they are about: privilege.go,
// volume.go, access.go and directory.go. Who may do what is computed on the
// states that the layout gives to fresh volumes, by the evaluator of package prep.
package manifest
