# A host in the guest uses the NVMe controllers of the guest's PCI bus, behind an IOMMU. The script binds them to
# vfio-pci, attaches them, exports them over NVMe/TCP to the guest's own kernel, resets them under load, detaches
# them, and returns them to the kernel.
TADDR=127.0.0.1 TPORT=4420
. "$(dirname "$0")/nvme.sh"
. "$(dirname "$0")/host.sh"
modprobe -a vfio-pci vfio_iommu_type1

controllers=()
for path in /sys/bus/pci/devices/*; do
    if [ "$(cat "$path/class")" = 0x010802 ]; then controllers+=("${path##*/}"); fi
done
[ ${#controllers[@]} -eq 1 ] || { echo "controllers: ${controllers[*]}"; exit 1; }
address=${controllers[0]}
give_to() { # bind|unbind DRIVER
    "$DRIVEBAY_BIN" pci "$1" --json "$address" >/run/answer 2>&1 && grep -q "\"driver\": \"$2\"" /run/answer || { cat /run/answer; exit 1; }
}
attach() { rpc_or_show bdev_nvme_attach_controller "{\"name\":\"P0\",\"trtype\":\"PCIe\",\"traddr\":\"$address\"}"; }

serve
refused "must be bound to vfio-pci" bdev_nvme_attach_controller "{\"name\":\"P0\",\"trtype\":\"PCIe\",\"traddr\":\"$address\"}"
refused "there is no PCI device" bdev_nvme_attach_controller '{"name":"P0","trtype":"PCIe","traddr":"0000:77:00.0"}'
give_to bind vfio-pci
attach
grep -q P0n1 /run/answer && grep -q P0n2 /run/answer || { cat /run/answer; exit 1; }
refused "open already" bdev_nvme_attach_controller "{\"name\":\"P1\",\"trtype\":\"PCIe\",\"traddr\":\"$address\"}"
rpc_or_show bdev_nvme_get_controllers
cp /run/answer /run/guest/controllers.json
rpc_or_show framework_get_pci_devices
cp /run/answer /run/guest/devices.json
if "$DRIVEBAY_BIN" pci unbind "$address" >/run/answer 2>&1; then mark "a device in use was unbound"; exit 1; fi
grep -q "process $host (drivebay)" /run/answer || { cat /run/answer; exit 1; }
mark "attached"

rpc_or_show nvmf_create_transport '{"trtype":"TCP"}'
export_disk P0n1 P0n2
refused "zoned" nvmf_subsystem_add_ns '{"nqn":"'"$NQN"'","namespace":{"bdev_name":"P0n4"}}'
connect
one=$(wait_disk 1) two=$(wait_disk 2)
verify() { # DISK FIO-OPTION...
    local disk=$1
    shift
    fio --name="${disk##*/}" --filename="$disk" --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 \
        --output=/run/fio."${disk##*/}" "$@" || { cat /run/fio."${disk##*/}"; exit 1; }
}
verify "$one" --rw=randwrite --bsrange=512-160k --bs_unaligned=0 --blockalign=512 --iodepth=8 --size=24M &
first=$!
verify "$two" --rw=randwrite --bsrange=4k-160k --iodepth=32 --size=16M
wait $first
mark "verified"

# The kernel flushes, discards and writes zeroes.
mkfs.ext4 -q "$one"
mount -o discard "$one" "$folder"
write_tree 40
umount "$folder"
mark "a tree is written"

verify "$two" --rw=randwrite --bs=8k --iodepth=16 --size=24M --time_based --runtime=4 &
load=$!
for _ in 1 2; do
    sleep 1
    rpc_or_show bdev_nvme_reset_controller '{"name":"P0"}'
done
wait $load
mark "reset under load"

disconnect
rpc_or_show bdev_nvme_detach_controller '{"name":"P0"}'
rpc_or_show bdev_get_bdevs
if grep -q P0n /run/answer; then cat /run/answer; exit 1; fi
attach
mark "detached and attached again"
kill $host
wait $host || { echo "the host ended with $?"; exit 1; }

# Blocks of 512 bytes of data and 8 of metadata.
"$DRIVEBAY_BIN" perf --plugin-dir "$DRIVEBAY_PLUGIN_DIR" --verify -w randrw -q 8 -n 3000 -o 4160 \
    --rpc "bdev_nvme_attach_controller {\"name\":\"P0\",\"trtype\":\"PCIe\",\"traddr\":\"$address\"}" P0n3
mark "metadata is verified"

# A zoned namespace: reset, write and append at the write pointer, read back, finish. Nine zones may be open.
zoned() { # OPTION...
    "$DRIVEBAY_BIN" perf --plugin-dir "$DRIVEBAY_PLUGIN_DIR" -w verify "$@" \
        --rpc "bdev_nvme_attach_controller {\"name\":\"P0\",\"trtype\":\"PCIe\",\"traddr\":\"$address\"}" P0n4
}
zoned -q 9 -n 6000 -o 4K
zoned -q 4 -n 400 -o 64K
if zoned -q 10 -n 10 >/run/answer 2>&1; then mark "too many zones were opened"; exit 1; fi
grep -q "depth 10 must be at most 9" /run/answer || { cat /run/answer; exit 1; }
mark "zones are verified"

# The kernel's own driver must find the data that was written through vfio-pci.
modprobe nvme
give_to unbind nvme
by_kernel() { # the kernel's name of namespace 1
    local path
    for path in /sys/bus/pci/devices/"$address"/nvme/nvme*/nvme*n*; do
        if [ "$(cat "$path/nsid" 2>/dev/null)" = 1 ]; then echo "${path##*/}"; return; fi
    done
    return 1
}
until_true 10 "the kernel's disk" by_kernel
until_true 10 "its node" test -b "/dev/$(by_kernel)"
mount -o ro "/dev/$(by_kernel)" "$folder"
check_tree
if "$DRIVEBAY_BIN" pci bind "$address" >/run/answer 2>&1; then mark "a mounted disk was taken"; exit 1; fi
grep -q "mounted at $folder" /run/answer || { cat /run/answer; exit 1; }
check_tree
umount "$folder"
mark done
