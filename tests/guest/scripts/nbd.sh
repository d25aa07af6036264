# A host in the guest attaches its bdevs to the guest's own kernel as /dev/nbdX.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/host.sh"
device=/dev/nbd0
start() { rpc_or_show nbd_start_disk "{\"bdev_name\":\"m0\",\"nbd_device\":\"$device\"}"; }
stop() { rpc_or_show nbd_stop_disk "{\"nbd_device\":\"$device\"}"; }
is_attached() { [ -e /sys/block/nbd0/pid ]; }
is_free() { ! is_attached; }
lists_none() { rpc nbd_get_disks && [ "$(tr -d ' \n' </run/answer)" = '[]' ]; }
has_sectors() { [ "$(cat /sys/block/nbd0/size)" = "$1" ]; }

serve
truncate -s 32M /run/disk
rpc_or_show bdev_aio_create '{"name":"m0","filename":"/run/disk","block_size":512,"fallocate":true}'

# The first disk makes the kernel load its module. The disk is served when the call returns.
client nbd_start_disk m0 $device
dd if=$device of=/dev/null bs=64k count=1 iflag=direct status=none
refused "in use" nbd_start_disk '{"bdev_name":"m0","nbd_device":"/dev/nbd0"}'
fio --name=v --filename=$device --rw=randrw --bsrange=4k-128k --size=24M --direct=1 --iodepth=16 --ioengine=libaio \
    --verify=crc32c --verify_fatal=1 >/run/fio || { cat /run/fio; exit 1; }
mkfs.ext4 -q -F $device
mount $device $folder
write_tree 30
umount $folder
echo 3 >/proc/sys/vm/drop_caches
mount -o ro $device $folder
check_tree
umount $folder
e2fsck -fn $device >/dev/null
mark "verified"

# The kernel is told of another size.
has_sectors 65536
truncate -s 48M /run/disk
rpc_or_show bdev_aio_rescan '{"name":"m0"}'
until_true 20 "the new size" has_sectors 98304
dd if=/dev/zero of=$device bs=1M seek=40 count=4 oflag=direct conv=notrunc status=none
mark "resized"

# A disk that another program detaches is removed, and its bdev is free.
python3 -c 'import fcntl, os; fcntl.ioctl(os.open("/dev/nbd0", os.O_RDWR), 0xab08)' # NBD_DISCONNECT
until_true 20 "the end of the disk" lists_none
until_true 20 "the detached device" is_free
start
mark "ended from outside"

# A bdev that goes away takes its disk along.
rpc_or_show bdev_aio_delete '{"name":"m0"}'
until_true 20 "the end of the disk" lists_none
until_true 20 "the detached device" is_free
rpc_or_show bdev_aio_create '{"name":"m0","filename":"/run/disk","block_size":512,"fallocate":true}'

# A stop during a start waits for the start, so no device stays attached.
for _ in $(seq 8); do
    "$DRIVEBAY_BIN" rpc -r $DRIVEBAY_RUNTIME/rpc.sock nbd_start_disk '{"bdev_name":"m0","nbd_device":"/dev/nbd0"}' >/run/started 2>&1 &
    starting=$!
    until rpc nbd_stop_disk '{"nbd_device":"/dev/nbd0"}'; do
        kill -0 $starting 2>/dev/null || is_attached || { cat /run/started /run/answer; exit 1; }
    done
    wait $starting || { cat /run/started; exit 1; }
    is_free && lists_none || { echo "attached after a stop"; cat /run/answer; exit 1; }
done
mark "stopped while starting"

# The end of the host detaches its disks.
start
client nbd_get_disks
grep -q m0 /run/answer
client nbd_stop_disk $device
is_free
start
kill $host
wait $host || { echo "the host ended with $?"; exit 1; }
is_free
if dmesg | grep -E 'I/O error.*nbd.*WRITE|BUG|hung'; then exit 1; fi
mark done
