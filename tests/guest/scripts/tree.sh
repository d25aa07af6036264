# Makes a file system on the disk and a tree of files in it, disconnects and connects again, and compares
# the tree. CONNECT has further arguments of `nvme connect`.
. "$(dirname "$0")/nvme.sh"

mark discover
nvme discover -t tcp -a "$TADDR" -s "$TPORT" -o json >/run/guest/discovery.json
mark connect
connect ${CONNECT:-}
disk=$(wait_disk 1)
if [ -n "${QUEUES:-}" ]; then
    cat "/sys/class/nvme/$(controller)/queue_count" >/run/guest/queue_count
fi

mark mkfs
mkfs.ext4 -q "$disk"
mount "$disk" "$folder"
mark write
write_tree
check_tree
umount "$folder"
disconnect
until_true 10 "the disk to go" has_no_disk 1

mark reconnect
connect ${CONNECT:-}
disk=$(wait_disk 1)
e2fsck -fn "$disk"
mount "$disk" "$folder"
check_tree
mark "checksums are equal"
rm -r "$folder/d1"
fstrim "$folder"
umount "$folder"
e2fsck -fn "$disk"

mark "raw writes, verified"
# Depth and sizes that cause in-capsule data, R2T, and several R2Ts at a time.
fio --name=verify --filename="$disk" --rw=randwrite --bsrange=4k-256k --size=16M --direct=1 --iodepth=16 \
    --ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse >/run/fio || { cat /run/fio; exit 1; }
disconnect
mark done
