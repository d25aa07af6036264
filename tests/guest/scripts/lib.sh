# Sourced by nvme.sh and iscsi.sh: the common part of the scripts in the guest, for any initiator. Those
# two define `connect`, `disconnect`, and `disk NUMBER`, which prints the path of a disk of the target.
set -euo pipefail
folder=/mnt/disk
mkdir -p "$folder"

mark() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

# Reports a step to the test outside of the guest, or waits until the test has reported one. Both use
# files in the run directory.
tell() { touch "/run/guest/$1"; }
wait_for() { # NAME
    until_true 90 "the test's word: $1" test -e "/run/guest/$1"
}

until_true() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    while ! "$@"; do
        [ $SECONDS -lt $end ] || { mark "waited in vain for $what"; dmesg | grep -iE 'nvme|sd |iscsi|connection' | tail -20; exit 1; }
        sleep 0.1
    done
}

has_disk() { disk "$1" >/dev/null; }
has_no_disk() { ! has_disk "$1"; }
wait_disk() { # NUMBER
    until_true 30 "disk $1" has_disk "$1"
    disk "$1"
}

# Makes a tree of files of many sizes and fsyncs them. Their checksums go to another disk than the tested
# one.
write_tree() { # [FILES]
    local i files=${1:-80}
    for i in $(seq 0 $((files - 1))); do
        mkdir -p "$folder/d$((i % 5))/e$((i % 3))"
        head -c $((i * i * 41)) /dev/urandom >"$folder/d$((i % 5))/e$((i % 3))/f$i"
    done
    dd if=/dev/urandom of="$folder/large" bs=1M count=8 conv=fsync status=none
    find "$folder" -type f -exec sync {} +
    (cd "$folder" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >/run/tree.sums
    [ "$(wc -l </run/tree.sums)" -eq $((files + 1)) ]
}
check_tree() { (cd "$folder" && sha256sum --quiet -c /run/tree.sums); }
