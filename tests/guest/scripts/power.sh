# The host runs in the guest, on a disk whose writes QEMU logs. The guest's kernel is its initiator. Files
# are replaced and fsynced one after another, and the script reports each to the test: see
# power_writer.py.
TADDR=127.0.0.1 TPORT=4420
. "$(dirname "$0")/nvme.sh"
modprobe virtio_blk
until_true 10 "the disk" test -b /dev/vda

export DRIVEBAY_RUNTIME=/run/drivebay
mkdir -p $DRIVEBAY_RUNTIME
"$DRIVEBAY_BIN" serve -r $DRIVEBAY_RUNTIME/rpc.sock --plugin-dir "$DRIVEBAY_PLUGIN_DIR" >/run/guest/host.log 2>&1 &
rpc() { "$DRIVEBAY_BIN" rpc -r $DRIVEBAY_RUNTIME/rpc.sock "$@" >/dev/null; }
until_true 30 "the host" test -S $DRIVEBAY_RUNTIME/rpc.sock
rpc bdev_aio_create '{"name":"Disk0","filename":"/dev/vda","block_size":512}'
rpc nvmf_create_transport '{"trtype":"TCP"}'
rpc nvmf_create_subsystem "{\"nqn\":\"$NQN\",\"allow_any_host\":true}"
rpc nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"Disk0\"}}"
rpc nvmf_subsystem_add_listener "{\"nqn\":\"$NQN\",\"listen_address\":{\"trtype\":\"TCP\",\"adrfam\":\"IPv4\",\"traddr\":\"$TADDR\",\"trsvcid\":\"$TPORT\"}}"

connect
disk=$(wait_disk 1)
mkfs.ext4 -q "$disk"
mount "$disk" "$folder"
sync
mark load
python3 "$(dirname "$0")/power_writer.py" "$folder" "$ROUNDS"
mark done
