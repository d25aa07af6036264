# In the guest: a file system and verified I/O on a vhost-user-scsi disk, while another disk is added,
# grows and is removed.
set -euo pipefail
wait_for() { # COMMAND...: waits until it succeeds
    for _ in $(seq 900); do "$@" && return; sleep 0.1; done
    echo "waited in vain for: $*"
    dmesg | tail -20
    exit 1
}
gone() { [ ! -b "$1" ]; }

modprobe -a virtio_scsi sd_mod
wait_for [ -b /dev/sda ]
blockdev --getsize64 /dev/sda >/run/guest/size
cat /sys/block/sda/device/{vendor,model} | xargs >/run/guest/names
cat /sys/block/sda/queue/write_cache >/run/guest/cache

mkfs.ext4 -q -F /dev/sda
mkdir -p /mnt/t
mount /dev/sda /mnt/t
dd if=/dev/urandom of=/mnt/t/data bs=1M count=8 conv=fsync status=none
sum=$(sha256sum </mnt/t/data)
touch /run/guest/ready
wait_for [ -b /dev/sdb ] # another disk is added while this one is in use
readlink -f /sys/block/sdb/device | grep ':0:3:0$' # target 3, unit 0
fio --name=v --filename=/dev/sdb --rw=randrw --bsrange=512-256k --size=8M --direct=1 --iodepth=8 --ioengine=libaio \
    --verify=crc32c --verify_fatal=1 >/run/guest/fio || { cat /run/guest/fio; exit 1; }
before=$(cat /sys/block/sdb/size)
touch /run/guest/verified
grown() { [ "$(cat /sys/block/sdb/size)" -eq $((2 * before)) ]; }
wait_for grown # the kernel was told; nobody asked it to look
dd if=/dev/zero of=/dev/sdb bs=1M seek=$((before / 2048)) count=4 oflag=direct conv=notrunc status=none
touch /run/guest/grown
wait_for gone /dev/sdb

fstrim /mnt/t || true # if the disk supports it
umount /mnt/t
echo 3 >/proc/sys/vm/drop_caches
mount /dev/sda /mnt/t
[ "$(sha256sum </mnt/t/data)" = "$sum" ] || { echo "other data"; exit 1; }
umount /mnt/t
e2fsck -fn /dev/sda >/dev/null
echo done
