//! All structs of the ABI under one root struct, so that abi_stable compares their layouts in one call.

use crate::*;

/// Contains each struct of the ABI once. No code creates a value of this type.
#[repr(C)]
#[derive(abi_stable::StableAbi, Debug)]
pub struct AbiRoot {
    /// `bay_str`.
    pub str: bay_str,
    /// `bay_sink`.
    pub sink: bay_sink,
    /// `bay_plugin`.
    pub plugin: bay_plugin,
    /// `bay_host`.
    pub host: bay_host,
    /// `bay_iov`.
    pub iov: bay_iov,
    /// `bay_io`.
    pub io: bay_io,
    /// `bay_io_ext`.
    pub io_ext: bay_io_ext,
    /// `bay_chan_args`.
    pub chan_args: bay_chan_args,
    /// `bay_bdev_ops`.
    pub bdev_ops: bay_bdev_ops,
    /// `bay_bdev_reg`.
    pub bdev_reg: bay_bdev_reg,
    /// `bay_bdev_info`.
    pub bdev_info: bay_bdev_info,
    /// `bay_wait`.
    pub wait: bay_wait,
    /// `bay_bdev_api`.
    pub bdev_api: bay_bdev_api,
    /// `bay_bdev_client_api`.
    pub bdev_client_api: bay_bdev_client_api,
    /// `bay_bdev_module`.
    pub bdev_module: bay_bdev_module,
    /// `bay_msg`.
    pub msg: bay_msg,
    /// `bay_poller_ops`.
    pub poller_ops: bay_poller_ops,
    /// `bay_thread_api`.
    pub thread_api: bay_thread_api,
    /// `bay_poller_api`.
    pub poller_api: bay_poller_api,
    /// `bay_io_device_api`.
    pub io_device_api: bay_io_device_api,
    /// `bay_buf_api`.
    pub buf_api: bay_buf_api,
    /// `bay_mem_api`.
    pub mem_api: bay_mem_api,
    /// `bay_rpc_method`.
    pub rpc_method: bay_rpc_method,
    /// `bay_rpc_api`.
    pub rpc_api: bay_rpc_api,
    /// `bay_broker_api`.
    pub broker_api: bay_broker_api,
    /// `bay_notify_api`.
    pub notify_api: bay_notify_api,
    /// `bay_quiesce`.
    pub quiesce: bay_quiesce,
    /// `bay_log_iface`.
    pub log_iface: bay_log_iface,
    /// `bay_nvmf_addr`.
    pub nvmf_addr: bay_nvmf_addr,
    /// `bay_nvmf_req`.
    pub nvmf_req: bay_nvmf_req,
    /// `bay_nvmf_transport_ops`.
    pub nvmf_transport_ops: bay_nvmf_transport_ops,
    /// `bay_nvmf_target_api`.
    pub nvmf_target_api: bay_nvmf_target_api,
    /// `bay_zone`.
    pub zone: bay_zone,
    /// `bay_region`.
    pub region: bay_region,
    /// `bay_job`.
    pub job: bay_job,
    /// `bay_worker_api`.
    pub worker_api: bay_worker_api,
    /// `bay_pci_info`.
    pub pci_info: bay_pci_info,
    /// `bay_pci_api`.
    pub pci_api: bay_pci_api,
}
