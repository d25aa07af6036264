# ext4 on a mirror under verified load, while the test kills one of the mirror's hosts and starts it again. This script writes and
# syncs more files whenever the test asks for it.
. "$(dirname "$0")/nvme.sh"

load() {
    until [ -e /run/guest/enough ]; do
        fio --name=load --filename="$folder/load" --rw=randwrite --bsrange=4k-64k --size=12M --direct=1 --iodepth=16 \
            --ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse || return 1
    done >/run/fio 2>&1
}

write_files() { # TURN
    local number
    for number in 1 2 3 4 5; do
        head -c $((number * 70001)) /dev/urandom >"$folder/file$1-$number"
        sync "$folder/file$1-$number" "$folder"
        (cd "$folder" && sha256sum "file$1-$number") >>/run/synced.sums
    done
}

mark connect
connect
disk=$(wait_disk $first)
mark mkfs
mkfs.ext4 -q "$disk"
mount "$disk" "$folder"
load &
load=$!
write_files 0
tell loaded
turn=1
while [ ! -e /run/guest/enough ]; do
    if [ -e "/run/guest/write-$turn" ]; then
        write_files $turn
        tell "written-$turn"
        mark "$turn times written"
        turn=$((turn + 1))
    fi
    sleep 0.1
done
wait $load || { cat /run/fio; exit 1; }
mark "fio verified"
umount "$folder"
e2fsck -fn "$disk"
# Empty the caches, so that the check reads from the disk.
echo 3 >/proc/sys/vm/drop_caches
mount -o ro "$disk" "$folder"
[ "$(wc -l </run/synced.sums)" -eq $((turn * 5)) ]
(cd "$folder" && sha256sum --quiet -c /run/synced.sums)
umount "$folder"
disconnect
mark done
