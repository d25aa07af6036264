# Writes and fsyncs files while the test kills the target and starts it again. Afterwards the synced
# files must exist, and the file system must be sound.
. "$(dirname "$0")/${INITIATOR_KIND:-nvme}.sh"

write_files() { # FROM TO
    local i
    for i in $(seq "$1" "$2"); do
        head -c $((4096 + i * 7919 % 300000)) /dev/urandom >"$folder/f$i"
        sync "$folder/f$i" "$folder"
        (cd "$folder" && sha256sum "f$i") >>/run/synced.sums
        echo "$i" >/run/guest/progress
    done
}

connect
disk=$(wait_disk $first)
mkfs.ext4 -q "$disk"
mount "$disk" "$folder"
mark load
fio --name=load --filename="$folder/load" --rw=randwrite --bs=4k --size=12M --direct=1 --iodepth=16 \
    --ioengine=libaio --verify=crc32c --verify_fatal=1 --runtime=15 --time_based --output-format=terse >/run/fio 2>&1 &
fio=$!
write_files 1 10
tell loaded                 # from here on the test may kill the target at any moment
write_files 11 60
mark "60 files synced"
wait_for restarted
write_files 61 70
wait $fio || { cat /run/fio; exit 1; }
mark "fio verified"
dmesg | grep -iE '(nvme|connection).*(reconnect|error)' | tail -5

umount "$folder"
e2fsck -fn "$disk"
# Empty the caches, so that the check reads from the disk.
echo 3 >/proc/sys/vm/drop_caches
mount -o ro "$disk" "$folder"
[ "$(wc -l </run/synced.sums)" -eq 70 ]
(cd "$folder" && sha256sum --quiet -c /run/synced.sums)
umount "$folder"
disconnect
mark done
