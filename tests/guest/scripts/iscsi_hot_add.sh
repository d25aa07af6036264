# While fio verifies on a disk of the host over NVMe/TCP ($NQN at $NVME_PORT), the host loads the iSCSI target, which
# then serves a file system.
. "$(dirname "$0")/iscsi.sh"

other=$(TPORT=$NVME_PORT && . "$(dirname "$0")/nvme.sh" && connect >/dev/null && wait_disk 1)
start_fio "$other"
tell connected
wait_for loaded

connect
disk=$(wait_disk 0)
mkfs.ext4 -q "$disk"
mount "$disk" "$folder"
write_tree 20
umount "$folder"
disconnect
until_true 10 "the disk to go" has_no_disk 0
connect >/dev/null
disk=$(wait_disk 0)
mount "$disk" "$folder"
check_tree
umount "$folder"
disconnect
mark "checksums are equal"

fio_runs
stop_fio
mark "fio verified"
mark done
