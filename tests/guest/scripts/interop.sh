# A host in the guest is the initiator of the kernel's own NVMe/TCP target, without digests and with them. It exports the
# disk to the kernel's initiator, whose fio checks every block. The kernel's target goes away for a while under load.
export NQN=nqn.2026-01.io.drivebay:kernel
TARGET=kernel
. "$(dirname "$0")/nvme.sh"
. "$(dirname "$0")/host.sh"
target=/sys/kernel/config/nvmet link=$target/ports/1/subsystems/$NQN
of_kernel=$NQN NQN=nqn.2026-01.io.drivebay:ours TPORT=4421

serve
rpc_or_show nvmf_create_transport '{"trtype":"TCP"}'
verify() { # FIO-OPTION...
    fio --name=load --filename="$disk" --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --output=/run/fio "$@" || {
        cat /run/fio
        exit 1
    }
}
for digests in false true; do
    rpc_or_show bdev_nvme_attach_controller "{\"name\":\"K\",\"trtype\":\"TCP\",\"traddr\":\"127.0.0.1\",\"trsvcid\":\"4420\",
        \"subnqn\":\"$of_kernel\",\"hdgst\":$digests,\"ddgst\":$digests,\"ctrlr_loss_timeout_sec\":-1,\"reconnect_delay_sec\":1}"
    export_disk Kn1
    connect
    disk=$(wait_disk 1)
    verify --rw=randwrite --bs=4k --iodepth=16 --size=8M
    verify --rw=randrw --bsrange=512-160k --bs_unaligned=0 --blockalign=512 --iodepth=8 --size=24M
    mark "verified, digests: $digests"
    verify --rw=randwrite --bs=8k --iodepth=16 --size=16M --time_based --runtime=5 &
    load=$!
    sleep 1
    # The target ends the connections.
    rm "$link"
    sleep 1
    ln -s "$target/subsystems/$of_kernel" "$link"
    wait $load
    mark "the target went away and came back"
    disconnect
    rpc_or_show nvmf_delete_subsystem "{\"nqn\":\"$NQN\"}"
    rpc_or_show bdev_nvme_detach_controller '{"name":"K"}'
done
kill $host
wait $host || { echo "the host ended with $?"; exit 1; }
mark done
