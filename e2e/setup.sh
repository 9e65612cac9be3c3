#!/bin/bash
# Makes a Debian machine ready for the tests of this directory: packages, a
# Docker Engine that answers, Go modules, Kubernetes. Running it again does
# what is still missing. It wants root.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
	acl             # getfacl and setfacl, which the ACL code is held against
	busybox-static  # the shell that benchmarks are held against
	btrfs-progs xfsprogs e2fsprogs util-linux mount # real file systems in loop images
	gcc libc6-dev    # the race detector
	containerd docker.io docker-compose iptables ca-certificates
	containernetworking-plugins etcd-server # a node with a network, and its control plane
	fish zsh         # their completion
	fuse3
	podman catatonit # plays a pod without a kubelet
	libcap2-bin     # capsh
	procps
	qemu-user-static # runs the arm64 binary
	strace          # injected faults and traces
	systemd         # systemd-analyze
)

missing=()
for package in "${packages[@]}"; do
	if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
		missing+=("$package")
	fi
done
if [ ${#missing[@]} -gt 0 ]; then
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q
	# The daemons are started below, by hand: the machine may run no systemd.
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod +x /usr/sbin/policy-rc.d
	apt-get install -q -y --no-install-recommends "${missing[@]}"
	rm /usr/sbin/policy-rc.d
fi

# dockerd wants the cgroup file systems, which a machine without systemd may not have mounted.
if ! grep -q ' /sys/fs/cgroup' /proc/self/mounts; then
	echo "setup: mounting cgroup2"
	mount -t cgroup2 none /sys/fs/cgroup
fi

if ! docker version >/dev/null 2>&1; then
	log=/var/log/dockerd-e2e.log
	echo "setup: starting dockerd, log in $log"
	setsid dockerd >"$log" 2>&1 </dev/null &
	for ((second = 0; ; second++)); do
		if docker version >/dev/null 2>&1; then
			break
		fi
		if [ "$second" = 60 ]; then
			echo "setup: dockerd does not answer after 60 s:" >&2
			tail -n 20 "$log" >&2
			exit 1
		fi
		sleep 1
	done
	echo "setup: dockerd answers after $second s"
fi

go mod download
echo "setup: Kubernetes is in $(e2e/kubernetes.sh)"
