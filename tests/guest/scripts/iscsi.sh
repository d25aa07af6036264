# Sourced by the scripts that run in the guest: the kernel's iSCSI initiator, with open-iscsi unpacked in
# $OPEN_ISCSI, of the target $IQN at $TADDR:$TPORT. SETTINGS has further settings of its node record.
. "$(dirname "$0")/lib.sh"
first=0             # the number of the first disk

export PATH=$OPEN_ISCSI/usr/sbin:$OPEN_ISCSI/sbin:$PATH
export LD_LIBRARY_PATH=$OPEN_ISCSI/usr/lib/x86_64-linux-gnu

# Makes the node record by hand, because discovery returns an address that the guest cannot reach.
login() { # PORTAL [SETTING=VALUE...]
    local portal=$1 setting update=()
    shift
    iscsiadm -m node -o new -T "$IQN" -p "$portal" >/dev/null
    for setting in "$@" "node.conn[0].timeo.noop_out_interval=2" "node.conn[0].timeo.noop_out_timeout=2"; do
        update+=(-n "${setting%%=*}" -v "${setting#*=}")
    done
    iscsiadm -m node -T "$IQN" -p "$portal" -o update "${update[@]}"
    iscsiadm -m node -T "$IQN" -p "$portal" --login
}
connect() { login "$TADDR:$TPORT" ${SETTINGS:-}; }
disconnect() { iscsiadm -m node -T "$IQN" --logout; }

# Prints the disk of a unit. SESSION counts logins from 1; without it, the disk of any session.
disk() { # LUN [SESSION]
    local path
    for path in /sys/class/iscsi_session/session${2:-*}/device/target*/*:*:*:"$1"/block/sd*; do
        [ -b "/dev/${path##*/}" ] && echo "/dev/${path##*/}" && return
    done
    return 1
}

kernel_said() { dmesg | grep -q "$1"; } # PATTERN

# fio writes and verifies, again and again, until `stop_fio`. That fails if fio has failed.
start_fio() { # DISK
    while [ ! -e /run/fio-stop ]; do
        fio --name=verify --filename="$1" --rw=randwrite --bsrange=4k-256k --size=24M --io_size=8M --direct=1 \
            --iodepth=8 --ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse >/run/fio 2>&1 ||
            { cat /run/fio; return 1; }
    done &
    fio=$!
}
fio_runs() { kill -0 $fio 2>/dev/null || { mark "fio ended"; exit 1; }; }
stop_fio() {
    touch /run/fio-stop
    wait $fio
}

modprobe -a iscsi_tcp sd_mod
mkdir -p /run/lock/iscsi /var/lib/iscsi
cp -r "$OPEN_ISCSI/etc/iscsi" /etc/
echo "InitiatorName=$INITIATOR" >/etc/iscsi/initiatorname.iscsi
iscsid
