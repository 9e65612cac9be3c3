#!/bin/bash
# Prepares a host's volumes without systemd or a container, with the two
# capabilities that are needed and no other:
#
#	sudo ./setup.sh [LAYOUT [OPTION…]]
#
# LAYOUT is layout.yaml beside this script where none is named; options are
# those of volprep apply (--root DIR tries it out below DIR).
# VOLPREP names the binary.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
volprep=${VOLPREP:-volprep}
layout=${1:-$here/layout.yaml}
shift $(($# > 0))

if [ "$(id -u)" != 0 ]; then
	echo "setup.sh: must run as root: it gives away all of root's capabilities but two" >&2
	exit 1
fi
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all,+chown,+fowner --clear-groups \
	"$volprep" apply --file "$layout" "$@"
