# ext4 and xfs on thin volumes (namespaces 1 and 2) and on their clones (3 and 4), trimmed while the test takes
# snapshots of all of them.
. "$(dirname "$0")/lib.sh"
modprobe -a ext4 xfs
connect
clone_folder=/mnt/clone
mkdir -p "$clone_folder"

is_sound() { # SYSTEM DISK
    case $1 in
    ext4) e2fsck -fn "$2" ;;
    xfs) xfs_repair -n "$2" ;;
    esac >/run/fsck 2>&1 || { cat /run/fsck; exit 1; }
}

number=0
for system in ext4 xfs; do
    number=$((number + 1))
    disk=$(wait_disk $number)
    mkfs.$system -q "$disk"
    mount "$disk" "$folder"
    dd if=/dev/urandom of="$folder/filling" bs=1M count="$FILLING_MIB" conv=fsync status=none
    mark "$system: filled"
    tell filled-$system
    wait_for counted-$system
    rm "$folder/filling"
    sync -f "$folder"
    fstrim "$folder"
    mark "$system: trimmed"
    tell trimmed-$system
    write_tree
    umount "$folder"
    tell written-$system
    wait_for cloned-$system
    clone=$(wait_disk $((number + 2)))
    mount "$disk" "$folder"
    [ $system = ext4 ] && options=() || options=(-o nouuid)
    mount "${options[@]}" "$clone" "$clone_folder"
    mark "$system: volume and clone are mounted"
    tell mounted-$system
    round=0
    until [ -e /run/guest/snapped-$system ] && [ $round -ge 3 ]; do
        round=$((round + 1))
        for place in "$folder" "$clone_folder"; do
            dd if=/dev/urandom of="$place/changing$((round % 2))" bs=256k count=12 conv=fsync status=none
            rm -f "$place/changing$(((round + 1) % 2))"
            sync -f "$place"
            fstrim "$place"
        done
    done
    mark "$system: $round rounds beside snapshots"
    check_tree
    umount "$folder"
    folder=$clone_folder check_tree
    umount "$clone_folder"
    is_sound $system "$disk"
    is_sound $system "$clone"
done
disconnect
mark done
