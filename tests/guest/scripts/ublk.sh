# A host in the guest serves its bdevs to the guest's own kernel as /dev/ublkbN. It is killed under load, and the next host
# recovers the disk. PyPI's client calls every method.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/host.sh"
disk=/dev/ublkb1
make_bdev() { rpc_or_show bdev_aio_create '{"name":"m0","filename":"/run/disk","block_size":512,"fallocate":true}'; }
is_gone() { [ ! -e /dev/ublkc1 ] && [ ! -e $disk ]; }
verify() { # FIO-OPTION...
    fio --name=v --filename=$disk --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --output=/run/fio "$@" ||
        { cat /run/fio; dmesg | tail -5; exit 1; }
}

serve
truncate -s 64M /run/disk
make_bdev
refused "modprobe ublk_drv" ublk_create_target
modprobe ublk_drv
refused "no ublk target" ublk_start_disk '{"bdev_name":"m0","ublk_id":1}'
client ublk_create_target
refused "exists already" ublk_create_target
client ublk_start_disk m0 1 --num-queues 2 --queue-depth 32
[ "$(blockdev --getsize64 $disk)" = $((64 << 20)) ]
cat /sys/block/ublkb1/queue/write_cache >/run/guest/cache
refused "in use" ublk_start_disk '{"bdev_name":"m0","ublk_id":1}'
client ublk_get_disks
cp /run/answer /run/guest/disks.json
mark "started"

verify --rw=randrw --bsrange=512-256k --size=32M --iodepth=32
mkfs.ext4 -q -F $disk
mount $disk $folder
write_tree 30
fstrim $folder
umount $folder
echo 3 >/proc/sys/vm/drop_caches
mount -o ro $disk $folder
check_tree
umount $folder
e2fsck -fn $disk >/dev/null
blkdiscard $disk
cmp -n $((16 << 20)) $disk /dev/zero
mark "verified"

for round in $(seq "$KILLS"); do
    verify --rw=randrw --bs=4k --size=16M --iodepth=16 --loops=1000 --time_based --runtime=5 &
    load=$!
    sleep 2
    kill -9 $host
    wait $host || true
    serve
    make_bdev
    rpc_or_show ublk_create_target
    [ "$round" -gt 1 ] || refused "ublk_recover_disk" ublk_start_disk '{"bdev_name":"m0","ublk_id":1}'
    client ublk_recover_disk m0 1
    wait $load
done
if dmesg | grep -E 'I/O error|critical'; then exit 1; fi
mark "recovered"

# Another bdev is not taken for the disk's own.
kill -9 $host
wait $host || true
serve
make_bdev
rpc_or_show bdev_malloc_create '{"name":"other","num_blocks":2048,"block_size":512}'
rpc_or_show ublk_create_target
refused "the bdev that the disk had" ublk_recover_disk '{"bdev_name":"other","ublk_id":1}'
rpc_or_show ublk_recover_disk '{"bdev_name":"m0","ublk_id":1}'

# Data that the kernel only caches is on the bdev after a stop, even if a program still has the disk open.
head -c 4M /dev/urandom >/run/cached
(
    exec 7<>$disk
    dd if=/run/cached of=$disk bs=64k conv=notrunc status=none
    touch /run/written
    sleep 3
) &
holder=$!
until_true 20 "the write" test -e /run/written
client ublk_stop_disk 1
cmp -n $((4 << 20)) /run/cached /run/disk
wait $holder
is_gone || { echo "the disk is still there"; exit 1; }
refused "No such device" ublk_stop_disk '{"ublk_id":1}'

# A bdev that goes away takes its disk along.
rpc_or_show ublk_start_disk '{"bdev_name":"other","ublk_id":1}'
rpc_or_show bdev_malloc_delete '{"name":"other"}'
until_true 20 "the end of the disk" is_gone

# The end of the target and of the host stops the disks.
rpc_or_show ublk_start_disk '{"bdev_name":"m0","ublk_id":1}'
client ublk_destroy_target
is_gone || { echo "the disk outlives its target"; exit 1; }
rpc_or_show ublk_create_target
rpc_or_show ublk_start_disk '{"bdev_name":"m0","ublk_id":1}'
kill $host
wait $host || { echo "the host ended with $?"; exit 1; }
is_gone || { echo "the disk outlives its host"; exit 1; }
mark done
