# A file system through a filter: written, taken apart, put together again, and equal; then raw writes, verified.
. "$(dirname "$0")/lib.sh"

mark connect
connect --keep-alive-tmo=60
disk=$(wait_disk 1)
mark mkfs
mkfs.ext4 -q "$disk" 16M
mount "$disk" "$folder"
head -c 3000000 /dev/urandom >"$folder/file"
sum=$(sha256sum <"$folder/file")
umount "$folder"
disconnect
until_true 10 "the disk to go" has_no_disk 1

mark reconnect
connect --keep-alive-tmo=60
disk=$(wait_disk 1)
e2fsck -fn "$disk"
mount "$disk" "$folder"
[ "$(sha256sum <"$folder/file")" = "$sum" ]
mark "checksums are equal"
umount "$folder"

mark "raw writes, verified"
fio --name=verify --filename="$disk" --rw=randwrite --bsrange=4k-256k --size=4M --direct=1 --iodepth=16 \
    --ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse >/run/fio || { cat /run/fio; exit 1; }
disconnect
mark done
