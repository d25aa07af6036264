# In the guest: a file system and verified I/O on the first virtio-blk disk, which the host under test serves.
set -euo pipefail
modprobe virtio_blk
for _ in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done
[ -b /dev/vda ] || { echo "no /dev/vda"; dmesg | tail -5; exit 1; }
blockdev --getsize64 /dev/vda >/run/guest/size
cat /sys/block/vda/queue/write_cache >/run/guest/cache
cat /sys/block/vda/serial >/run/guest/serial

mkfs.ext4 -q -F /dev/vda
mkdir -p /mnt/t
mount /dev/vda /mnt/t
dd if=/dev/urandom of=/mnt/t/data bs=1M count=8 conv=fsync status=none
sum=$(sha256sum </mnt/t/data)
fstrim /mnt/t
umount /mnt/t
echo 3 >/proc/sys/vm/drop_caches
mount /dev/vda /mnt/t
[ "$(sha256sum </mnt/t/data)" = "$sum" ] || { echo "other data"; exit 1; }
umount /mnt/t
e2fsck -fn /dev/vda >/dev/null

fio --name=v --filename=/dev/vda --rw=randrw --bs=4k --size=8M --direct=1 --iodepth=8 --ioengine=libaio \
    --verify=crc32c --verify_fatal=1 >/run/guest/fio
echo done
