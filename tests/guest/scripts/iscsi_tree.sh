# File systems of two kinds on two units, each with a tree of files. After another login the trees must
# be the same.
. "$(dirname "$0")/iscsi.sh"

iscsiadm -m discovery -t sendtargets -p "$TADDR:$TPORT" -o nonpersistent >/run/guest/discovery || true

check_ext4() { e2fsck -fn "$1"; }
check_xfs() { xfs_repair -n "$1" >/run/repair 2>&1 || { cat /run/repair; exit 1; }; }

connect
iscsiadm -m session -P 2 >/run/guest/session
for kind in ext4 xfs; do
    [ $kind = ext4 ] && unit=0 || unit=1
    disk=$(wait_disk $unit)
    mark "mkfs.$kind"
    "mkfs.$kind" -q "$disk"
    mount "$disk" "$folder"
    write_tree 30
    umount "$folder"
    disconnect
    until_true 10 "the disk to go" has_no_disk $unit

    connect >/dev/null
    disk=$(wait_disk $unit)
    "check_$kind" "$disk"
    mount "$disk" "$folder"
    check_tree
    mark "checksums are equal"
    rm -r "$folder/d1"
    fstrim "$folder"
    umount "$folder"
    "check_$kind" "$disk"
done

mark "raw writes, verified"
# With this depth and these sizes, writes use immediate data, R2T, and several R2Ts at a time.
start_fio "$(wait_disk 0)"
stop_fio
disconnect
mark done
