# In the guest: verified load on a vhost-user disk while the test kills the host and starts it again.
set -euo pipefail
modprobe virtio_blk
for _ in $(seq 100); do [ -b /dev/vda ] && break; sleep 0.1; done

for round in $(seq 0 $((KILLS - 1))); do
    fio --name=v --filename=/dev/vda --rw=randrw --bs=4k --size=12M --direct=1 --iodepth=16 --ioengine=libaio \
        --verify=crc32c --verify_fatal=1 --loops=1000 --runtime=8 --time_based >/run/guest/fio 2>&1 &
    fio=$!
    sleep 2
    touch "/run/guest/loaded$round" # from here on the test may kill the host at any moment
    for _ in $(seq 600); do [ -e "/run/guest/restarted$round" ] && break; sleep 0.1; done
    wait $fio || { cat /run/guest/fio; dmesg | tail -5; exit 1; }
done
if dmesg | grep -E 'I/O error|critical'; then exit 1; fi
echo done
