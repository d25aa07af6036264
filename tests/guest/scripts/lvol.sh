# $SYSTEM, ext4 or xfs, on a thin volume (namespace 1) and on its clone (namespace 2). Both are trimmed while the test
# takes and deletes snapshots of them.
. "$(dirname "$0")/nvme.sh"
modprobe "$SYSTEM"
connect
clone_folder=/mnt/clone
mkdir -p "$clone_folder"

check_system() { # DISK
    case $SYSTEM in
    ext4) e2fsck -fn "$1" ;;
    xfs) xfs_repair -n "$1" ;;
    esac >/run/fsck 2>&1 || { cat /run/fsck; exit 1; }
}

# The files are few, because each process takes long on an emulated CPU. check_tree compares them.
write_files() {
    local number
    for number in 1 2 3 4 5 6 7 8; do
        head -c $((number * 300001)) /dev/urandom >"$folder/file$number"
    done
    sync -f "$folder"
    (cd "$folder" && sha256sum file*) >/run/tree.sums
}

disk=$(wait_disk 1)
mkfs.$SYSTEM -q "$disk"
mount "$disk" "$folder"
dd if=/dev/urandom of="$folder/filling" bs=1M count="$FILLING_MIB" conv=fsync status=none
mark "filled"
tell filled
wait_for counted
rm "$folder/filling"
sync -f "$folder"
fstrim "$folder"
mark "trimmed"
tell trimmed
write_files
umount "$folder"
tell written
wait_for cloned
clone=$(wait_disk 2)
mount "$disk" "$folder"
# The clone's file system has the UUID of the volume's.
[ "$SYSTEM" = xfs ] && options=(-o nouuid) || options=()
mount "${options[@]}" "$clone" "$clone_folder"
mark "volume and clone are mounted"
tell mounted
round=0
until [ -e /run/guest/snapped ] && [ $round -ge 3 ]; do
    round=$((round + 1))
    for place in "$folder" "$clone_folder"; do
        dd if=/dev/urandom of="$place/changing$((round % 2))" bs=256k count=12 conv=fsync status=none
        rm -f "$place/changing$(((round + 1) % 2))"
        sync -f "$place"
        fstrim "$place"
    done
done
mark "$round rounds beside snapshots"
check_tree
umount "$folder"
folder=$clone_folder check_tree
umount "$clone_folder"
check_system "$disk"
check_system "$clone"
disconnect
mark done
