# Scripts that run the host inside of the guest source this file. It has functions that start the host, call its
# methods, and export disks as subsystem $NQN at $TADDR:$TPORT.
export DRIVEBAY_RUNTIME=/run/drivebay
mkdir -p $DRIVEBAY_RUNTIME
serve() {
    "$DRIVEBAY_BIN" serve -r $DRIVEBAY_RUNTIME/rpc.sock --plugin-dir "$DRIVEBAY_PLUGIN_DIR" >>/run/guest/host.log 2>&1 &
    host=$!
    until_true 30 "the host" rpc spdk_get_version
}
rpc() { "$DRIVEBAY_BIN" rpc -r $DRIVEBAY_RUNTIME/rpc.sock "$@" >/run/answer 2>&1; }
client() { "$SPDK_RPC" -s $DRIVEBAY_RUNTIME/rpc.sock "$@" >/run/answer 2>&1 || { cat /run/answer; exit 1; }; } # PyPI's
rpc_or_show() { rpc "$@" || { cat /run/answer; exit 1; }; }
refused() { # PART COMMAND...: the call fails, and says PART
    local part=$1
    shift
    if rpc "$@"; then mark "taken: $*"; exit 1; fi
    grep -q "$part" /run/answer || { cat /run/answer; exit 1; }
}
export_disk() { # NAME
    rpc_or_show nvmf_create_subsystem "{\"nqn\":\"$NQN\",\"allow_any_host\":true}"
    local name
    for name in "$@"; do
        rpc_or_show nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"$name\"}}"
    done
    rpc_or_show nvmf_subsystem_add_listener "{\"nqn\":\"$NQN\",\"listen_address\":{\"trtype\":\"TCP\",\"adrfam\":\"IPv4\",\"traddr\":\"$TADDR\",\"trsvcid\":\"$TPORT\"}}"
}
