#!/bin/bash
# Builds kubelet from its Go module, once per version, and prints where it is.
# Nothing of Kubernetes can be had as a binary from a distribution, but its
# source is on the Go module proxy.
set -euo pipefail

version=${KUBELET_VERSION:-1.36.3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/volprep-e2e
binary=$cache/kubelet-$version
staging=v0.${version#*.}

if [ -x "$binary" ]; then
	echo "$binary"
	exit
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -x "$binary" ]; then
	echo "$binary"
	exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<MOD
module kubelet

go 1.26.0

require k8s.io/kubernetes v$version
MOD
cat >kubelet.go <<GO
//go:build tools

package kubelet

import _ "k8s.io/kubernetes/cmd/kubelet"
GO
# Kubernetes requires its staging modules at v0.0.0 and replaces them by
# directories of its own repository; the proxy has them as modules. Others
# (k8s.io/utils) have versions that only begin so.
source=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",*$/\1/p')
sed -n 's/^\t\(k8s\.io\/[a-z-]*\) v0\.0\.0\( .*\)*$/replace \1 => \1 '"$staging"'/p' "$source" | sort -u >>go.mod

export CGO_ENABLED=0 GOFLAGS=-mod=mod
go mod tidy >&2
go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$version" -o "$binary.new" k8s.io/kubernetes/cmd/kubelet >&2
mv "$binary.new" "$binary"
echo "$binary"
