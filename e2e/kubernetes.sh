#!/bin/bash
# Builds a node and its control plane from the Go module of Kubernetes, once
# per version, and prints the directory they are in. Nothing of Kubernetes can
# be had as a binary from a distribution, but its source is on the Go module
# proxy.
set -euo pipefail

version=${KUBERNETES_VERSION:-1.36.3}
programs=(kubelet kube-apiserver kube-controller-manager kube-scheduler kubectl)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/volprep-e2e
directory=$cache/kubernetes-$version
staging=v0.${version#*.}

if [ -d "$directory" ]; then
	echo "$directory"
	exit
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -d "$directory" ]; then
	echo "$directory"
	exit
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<MOD
module kubernetes

go 1.26.0

require k8s.io/kubernetes v$version
MOD
{
	printf '//go:build tools\n\npackage kubernetes\n\nimport (\n'
	printf '\t_ "k8s.io/kubernetes/cmd/%s"\n' "${programs[@]}"
	printf ')\n'
} >programs.go
# Kubernetes requires its staging modules at v0.0.0 and replaces them by
# directories of its own repository; the proxy has them as modules. Others
# (k8s.io/utils) have versions that only begin so.
source=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",*$/\1/p')
sed -n 's/^\t\(k8s\.io\/[a-z-]*\) v0\.0\.0\( .*\)*$/replace \1 => \1 '"$staging"'/p' "$source" | sort -u >>go.mod

export CGO_ENABLED=0 GOFLAGS=-mod=mod
go mod tidy >&2
mkdir "$work/built"
go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$version -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$version")" \
	-o "$work/built/" "${programs[@]/#/k8s.io/kubernetes/cmd/}" >&2
mv "$work/built" "$directory.new"
mv "$directory.new" "$directory"
echo "$directory"
