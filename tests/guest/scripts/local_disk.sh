# A host in the guest over local disks: a mounted disk, a disk whose host is killed, and a file on a frozen
# file system.
TADDR=127.0.0.1 TPORT=4420
. "$(dirname "$0")/nvme.sh"
. "$(dirname "$0")/host.sh"
modprobe -a virtio_blk ext4
until_true 10 "the disks" test -b /dev/vdb

aio() { echo "{\"name\":\"$1\",\"filename\":\"$2\",\"block_size\":512${3:-}}"; }

# --- a disk with a mounted partition ---
serve
# One partition of 48 MiB in the first entry: type 83h, start and length in blocks, signature.
printf '\0\0\0\0\x83\0\0\0\0\x08\0\0\0\x80\x01\0' | dd of=/dev/vda bs=1 seek=446 conv=notrunc status=none
printf '\x55\xaa' | dd of=/dev/vda bs=1 seek=510 conv=notrunc status=none
blockdev --rereadpt /dev/vda
until_true 10 "the partition" test -b /dev/vda1
mkfs.ext4 -q /dev/vda1
mount /dev/vda1 "$folder"
for path in /dev/vda /dev/vda1; do
    refused "mounted on $folder" bdev_aio_create "$(aio D0 $path)"
    refused "mounted on $folder" bdev_uring_create "{\"name\":\"D0\",\"filename\":\"$path\"}"
done
rpc_or_show bdev_aio_create "$(aio R0 /dev/vda ',"readonly":true')"
rpc_or_show bdev_aio_create "$(aio R1 /dev/vda ',"readonly":true,"uuid":"00000000-0000-4000-8000-000000000001"')"
for name in R0 R1; do rpc_or_show bdev_aio_delete "{\"name\":\"$name\"}"; done
mark "a mounted disk is read and not written"
umount "$folder"
rpc_or_show bdev_aio_create "$(aio D0 /dev/vda)"
if mount /dev/vda1 "$folder" 2>/dev/null; then mark "mounted under the host"; exit 1; fi

# --- a host that is killed under I/O, and restarted at once ---
rpc_or_show nvmf_create_transport '{"trtype":"TCP"}'
export_disk D0
connect
dd if=/dev/zero of="$(wait_disk 1)" bs=64k oflag=direct status=none 2>/dev/null &
writer=$!
sleep 1
kill -9 $host
wait $host || true
serve
rpc_or_show bdev_aio_create "$(aio D0 /dev/vda)"
mark "a killed host's disk is there for the next one at once"
disconnect
wait $writer || true
kill $host
wait $host || true

# --- a file on a frozen file system, with libaio ---
echo 2 >/proc/sys/kernel/io_uring_disabled
mkfs.ext4 -q /dev/vdb
mount /dev/vdb "$folder"
truncate -s 16M "$folder/disk"
serve
rpc_or_show bdev_aio_create "$(aio F0 "$folder/disk" ',"fallocate":true')"
rpc_or_show bdev_malloc_create '{"name":"M0","num_blocks":8192,"block_size":512}'
rpc_or_show nvmf_create_transport '{"trtype":"TCP"}'
export_disk F0 M0
connect
on_file=$(wait_disk 1) in_memory=$(wait_disk 2)
fsfreeze -f "$folder"
dd if=/dev/urandom of="$on_file" bs=4k count=1 oflag=direct status=none &
hung=$!
blkdiscard -z -l 4096 -o 8192 "$on_file" 2>/dev/null &
sleep 1
dd if=/dev/urandom of="$in_memory" bs=4k count=256 oflag=direct status=none
rpc_or_show bdev_get_bdevs
kill -0 $hung || { mark "the file system was not frozen"; exit 1; }
mark "another disk goes on"
fsfreeze -u "$folder"
wait $hung
disconnect
kill $host
wait $host
mark done
