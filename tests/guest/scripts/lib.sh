# Sourced by the scripts that run in the guest: an initiator of the subsystem $NQN at $TADDR:$TPORT.
# With TARGET=kernel the target is the guest's own kernel: a known good one to try a script against.
set -euo pipefail
folder=/mnt/disk
mkdir -p "$folder"

mark() { echo "[$(cut -d' ' -f1 /proc/uptime)] $*"; }

# Tells the test on the host something, or waits until it has told: files in the run directory.
tell() { touch "/run/guest/$1"; }
wait_for() { # NAME
    until_true 90 "the test's word: $1" test -e "/run/guest/$1"
}

until_true() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    while ! "$@"; do
        [ $SECONDS -lt $end ] || { mark "waited in vain for $what"; dmesg | grep -i nvme | tail -20; exit 1; }
        sleep 0.1
    done
}

# Further arguments are those of `nvme connect`, such as -g -G for digests.
connect() {
    nvme connect -t tcp -a "$TADDR" -s "$TPORT" -n "$NQN" --reconnect-delay=1 --ctrl-loss-tmo=120 \
        --keep-alive-tmo=5 "$@"
}
disconnect() { nvme disconnect -n "$NQN" | grep 'disconnected 1 '; }

# The names of the subsystem's controller and of a namespace's disk, with or without the kernel's multipath.
subsystem() {
    local path
    for path in /sys/class/nvme-subsystem/*; do
        [ "$(cat "$path/subsysnqn" 2>/dev/null)" = "$NQN" ] && echo "$path" && return
    done
    return 1
}
controller() { name_in_sysfs '^nvme[0-9]+$' "$(subsystem)"/nvme*; }
# The number in a disk's name is not its namespace's: Linux scans namespaces at once and numbers them as they come.
disk() { # NSID
    local subsystem path name
    subsystem=$(subsystem) || return 1
    for path in "$subsystem"/nvme*n* "$subsystem"/nvme*/nvme*n*; do
        name=${path##*/}
        [[ $name =~ ^nvme[0-9]+n[0-9]+$ ]] && [ "$(cat "$path/nsid" 2>/dev/null)" = "$1" ] && [ -b "/dev/$name" ] || continue
        echo "/dev/$name"
        return
    done
    return 1
}
name_in_sysfs() { # PATTERN PATH...: the first path whose last part the pattern fits
    local pattern=$1 path
    shift
    for path in "$@"; do
        [ -e "$path" ] && [[ ${path##*/} =~ $pattern ]] && echo "${path##*/}" && return
    done
    return 1
}
has_disk() { disk "$1" >/dev/null; }
has_no_disk() { ! has_disk "$1"; }
wait_disk() { # NSID
    until_true 30 "the disk of namespace $1" has_disk "$1"
    disk "$1"
}

# A tree of files of many sizes, fsynced; its checksums go where the test's disk is not.
write_tree() {
    local i
    for i in $(seq 0 79); do
        mkdir -p "$folder/d$((i % 5))/e$((i % 3))"
        head -c $((i * i * 41)) /dev/urandom >"$folder/d$((i % 5))/e$((i % 3))/f$i"
    done
    dd if=/dev/urandom of="$folder/large" bs=1M count=8 conv=fsync status=none
    find "$folder" -type f -exec sync {} +
    (cd "$folder" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >/run/tree.sums
    [ "$(wc -l </run/tree.sums)" -eq 81 ]
}
check_tree() { (cd "$folder" && sha256sum --quiet -c /run/tree.sums); }

# The kernel's target on a RAM disk.
kernel_target() {
    TADDR=127.0.0.1 TPORT=4420
    modprobe -a loop nvmet-tcp
    mount -t configfs configfs /sys/kernel/config
    truncate -s 64M /dev/shm/backing
    cd /sys/kernel/config/nvmet
    mkdir "subsystems/$NQN" "subsystems/$NQN/namespaces/1" ports/1
    echo 1 >"subsystems/$NQN/attr_allow_any_host"
    losetup -f --show /dev/shm/backing >"subsystems/$NQN/namespaces/1/device_path"
    echo 1 >"subsystems/$NQN/namespaces/1/enable"
    echo tcp >ports/1/addr_trtype
    echo ipv4 >ports/1/addr_adrfam
    echo $TADDR >ports/1/addr_traddr
    echo $TPORT >ports/1/addr_trsvcid
    ln -s "$PWD/subsystems/$NQN" ports/1/subsystems/
    cd /run/guest
}

modprobe nvme-tcp
if [ "${TARGET:-}" = kernel ]; then kernel_target; fi
