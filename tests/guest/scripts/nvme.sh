# Sourced by the scripts that run in the guest: an initiator of the subsystem $NQN at $TADDR:$TPORT.
# With TARGET=kernel the target is the guest's own kernel. So a script can run against a target that is known to be
# good.
. "$(dirname "$0")/lib.sh"
first=1             # the number of the first disk

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
# The number in a disk's name is not the namespace's: Linux scans namespaces in parallel and numbers them in the
# order of arrival.
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
name_in_sysfs() { # PATTERN PATH...: the first path whose last part matches the pattern
    local pattern=$1 path
    shift
    for path in "$@"; do
        [ -e "$path" ] && [[ ${path##*/} =~ $pattern ]] && echo "${path##*/}" && return
    done
    return 1
}

# The kernel's own target on a RAM disk.
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
