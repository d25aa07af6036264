# Two hosts in one guest reserve a namespace with nvme-cli. Without the kernel's multipath, each has its own disk.
modprobe nvme-core multipath=N
. "$(dirname "$0")/nvme.sh"

disk_of() { # HOSTNQN
    local controller
    for controller in /sys/class/nvme/nvme*; do
        [ "$(cat "$controller/hostnqn" 2>/dev/null)" = "$1" ] || continue
        name_in_sysfs '^nvme[0-9]+n[0-9]+$' "$controller"/nvme*
        return
    done
    return 1
}
# Each host has a port of its own, because nvme-cli connects to a port only once.
connect_as() { # HOSTNQN HOSTID PORT
    TPORT=$3 connect --hostnqn="$1" --hostid="$2"
    until_true 30 "the disk of $1" disk_of "$1" >/dev/null
}
write_to() { dd if=/dev/zero of="/dev/$1" bs=4k count=1 oflag=direct status=none; }
must_fail() { # WORDS COMMAND...
    local words=$1 output
    shift
    if output=$("$@" 2>&1); then mark "this was not refused: $*"; exit 1; fi
    grep -qi "$words" <<<"$output" || { mark "$*: $output"; exit 1; }
}
conflicts() { must_fail conflict nvme "$1" "/dev/$2" --namespace-id=1 "${@:3}"; }
reserve() { nvme "$1" "/dev/$2" --namespace-id=1 "${@:3}"; }
report() { nvme resv-report "/dev/$1" --namespace-id=1 --eds -o json >"/run/guest/$2.json"; }

connect_as nqn.2026-01.io.drivebay:one 11111111-1111-4111-8111-111111111111 "$TPORT"
connect_as nqn.2026-01.io.drivebay:two 22222222-2222-4222-8222-222222222222 "$SECOND_PORT"
one=$(disk_of nqn.2026-01.io.drivebay:one)
two=$(disk_of nqn.2026-01.io.drivebay:two)

mark "the disk is a LUN, too, so no host may register"
conflicts resv-register "$one" --nrkey=0xa --rrega=0
tell refused
wait_for no-lun

mark "the first host reserves"
reserve resv-register "$one" --nrkey=0xa --rrega=0
reserve resv-acquire "$one" --crkey=0xa --rtype=1 --racqa=0
write_to "$one"
must_fail . write_to "$two"
report "$two" reserved
tell reserved
wait_for lun-refused

mark "the second host preempts it"
conflicts resv-acquire "$two" --crkey=0xb --rtype=1 --racqa=0
reserve resv-register "$two" --nrkey=0xb --rrega=0
reserve resv-acquire "$two" --crkey=0xb --prkey=0xa --rtype=2 --racqa=1
write_to "$two"
must_fail . write_to "$one"
must_fail . dd if="/dev/$one" of=/dev/null bs=4k count=1 iflag=direct status=none
report "$one" preempted

mark "the second host releases"
reserve resv-release "$two" --crkey=0xb --rtype=2 --rrela=0
write_to "$one"
reserve resv-register "$two" --crkey=0xb --rrega=1
report "$one" free
nvme disconnect -n "$NQN" | grep 'disconnected 2 '
mark done
