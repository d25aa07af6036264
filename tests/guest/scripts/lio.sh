# The host's iSCSI initiator on units of the kernel's own target (LIO), whose disk is a RAM disk of the kernel.
IQN=iqn.2026-01.io.drivebay:lio
INITIATOR=iqn.2026-01.io.drivebay:guest
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/host.sh"

modprobe brd rd_nr=1 rd_size=65536
modprobe -a target_core_mod target_core_iblock iscsi_target_mod
mountpoint -q /sys/kernel/config || mount -t configfs configfs /sys/kernel/config
target=/sys/kernel/config/target # links in configfs need absolute paths
cd $target
mkdir -p core/iblock_0/disk
echo udev_path=/dev/ram0 >core/iblock_0/disk/control
echo 12345678-1234-4234-8234-123456789abc >core/iblock_0/disk/wwn/vpd_unit_serial
echo 1 >core/iblock_0/disk/enable
mkdir -p "iscsi/$IQN/tpgt_1"
cd "iscsi/$IQN/tpgt_1"
mkdir lun/lun_0
ln -s $target/core/iblock_0/disk lun/lun_0/disk
mkdir np/127.0.0.1:3260
mkdir -p "acls/$INITIATOR/lun_0"
ln -s $target/iscsi/$IQN/tpgt_1/lun/lun_0 "acls/$INITIATOR/lun_0/disk"
require() { # YES-OR-NO USER SECRET TARGET-USER TARGET-SECRET
    echo "$1" >attrib/authentication
    echo -n "$2" >"acls/$INITIATOR/auth/userid"
    echo -n "$3" >"acls/$INITIATOR/auth/password"
    echo -n "$4" >"acls/$INITIATOR/auth/userid_mutual"
    echo -n "$5" >"acls/$INITIATOR/auth/password_mutual"
}
echo 0 >attrib/authentication
echo 1 >enable

# Writes and verifies through the initiator, in a process of its own.
verify() { # URL PERF-OPTION...
    local url=$1 params
    shift
    params="{\"name\":\"L0\",\"initiator_iqn\":\"$INITIATOR\",\"url\":\"$url\"}"
    "$DRIVEBAY_BIN" perf --plugin-dir "$DRIVEBAY_PLUGIN_DIR" --rpc "bdev_iscsi_create $params" \
        --verify -w randrw "$@" L0 >/run/perf 2>&1 || { cat /run/perf; dmesg | tail -20; exit 1; }
}
create() { # URL: the method and parameters, for `refused`
    echo "{\"name\":\"L0\",\"initiator_iqn\":\"$INITIATOR\",\"url\":\"$1\"}"
}
plain="iscsi://127.0.0.1:3260/$IQN/0"
verify "$plain" -o 4K -q 16 -n 1000
verify "$plain" -o 256K -q 4 -n 40
mark "written and verified"

require 1 guest the-guests-secret target the-targets-secret
echo CRC32C >param/HeaderDigest
echo CRC32C >param/DataDigest
options="target_user=target&target_password=the-targets-secret&header_digest=crc32c&data_digest=crc32c"
mutual="iscsi://guest%the-guests-secret@127.0.0.1:3260/$IQN/0?$options"
verify "$mutual" -o 16K -q 8 -n 200
mark "with mutual CHAP and both digests"

serve
refused "user or secret" bdev_iscsi_create "$(create "$plain")"
refused "user or secret" bdev_iscsi_create "$(create "${mutual/the-guests/another}")"
refused "prove its identity" bdev_iscsi_create "$(create "${mutual/the-targets/another}")"
rpc_or_show bdev_iscsi_create "$(create "$mutual")"
rpc_or_show bdev_get_bdevs '{"name":"L0"}'
cp /run/answer /run/guest/bdev.json
kill $host
wait $host || true
mark "wrong secrets are refused"

has_session() { grep -q LOGGED_IN "acls/$INITIATOR/info"; }
has_no_session() { ! has_session; }
# The kernel may notice the end of the last host late, and its session must not be taken for the next one.
until_true 60 "the end of the last session" has_no_session
echo 0 >attrib/authentication
verify "$plain" -o 4K -q 8 -t 12 &
load=$!
until_true 60 "a session" has_session
sleep 2
# The target drops all sessions, and refuses logins for a while.
echo 0 >enable
sleep 2
echo 1 >enable
wait $load
mark done
