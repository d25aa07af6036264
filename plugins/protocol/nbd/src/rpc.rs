//! The methods. The methods for disks of the kernel are the reference's. The reference has no methods for servers.

use crate::disk;
use crate::export::{Export, ExportConfig};
use crate::registry::{no_server, registry};
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::Method;
use drivebay_sdk::runtime::net::Address;
use drivebay_sdk::serde_json::{Map, Value, json};
use drivebay_spec_nbd::handshake::{NAME_LEN_MAX, PORT};
use std::sync::Arc;

params! {
    /// Parameters of `nbd_start_disk`.
    pub struct StartDisk {
        /// Name of the bdev.
        bdev_name: String,
        /// Path of the device, such as `/dev/nbd0`; the first free device when absent.
        nbd_device: Option<String>,
    }

    /// Parameters of `nbd_stop_disk`.
    pub struct StopDisk {
        /// Path of the device, such as `/dev/nbd0`.
        nbd_device: String,
    }

    /// Parameters of `nbd_get_disks`.
    pub struct GetDisks {
        /// Path of one device, such as `/dev/nbd0`; all devices when absent.
        nbd_device: Option<String>,
    }

    /// Parameters of `nbd_create_server`.
    pub struct CreateServer {
        /// Name of the server.
        name: String,
        /// Path of a Unix socket to listen on.
        path: Option<String>,
        /// IP address to listen on, instead of `path`.
        host: Option<String>,
        /// TCP port; 0 = the system chooses one.
        port: u16 = PORT,
    }

    /// Parameters of `nbd_delete_server`.
    pub struct DeleteServer {
        /// Name of the server.
        name: String,
    }

    /// Parameters of `nbd_get_servers`.
    pub struct GetServers {
        /// Name of one server; all servers when absent.
        name: Option<String>,
    }

    /// Parameters of `nbd_server_add_export`.
    pub struct AddExport {
        /// Name of the server.
        server: String,
        /// Name of the bdev.
        bdev_name: String,
        /// Name of the export; the name of the bdev when absent.
        name: Option<String>,
        /// Text for clients that list exports.
        description: Option<String>,
        /// Whether clients may only read.
        readonly: bool = false,
    }

    /// Parameters of `nbd_server_remove_export`.
    pub struct RemoveExport {
        /// Name of the server.
        server: String,
        /// Name of the export.
        name: String,
    }
}

/// Registers the methods.
///
/// # Errors
/// `EEXIST` when a name is taken.
pub fn register(app: &App) -> Result<()> {
    let method = "Attaches a bdev to this machine's kernel as a block device. The result is the path of the device.";
    Method::task("nbd_start_disk", method, start_disk).register(app)?;
    Method::task("nbd_stop_disk", "Detaches a block device from the kernel.", stop_disk)
        .register(app)?;
    Method::immediate("nbd_get_disks", "Lists the block devices of the kernel.", get_disks)
        .register(app)?;
    Method::immediate("nbd_create_server", "Listens for NBD clients.", create_server)
        .register(app)?;
    let method = "Deletes an NBD server with its exports, and disconnects its clients.";
    Method::task("nbd_delete_server", method, delete_server).register(app)?;
    Method::immediate("nbd_get_servers", "Lists the NBD servers.", get_servers).register(app)?;
    Method::immediate("nbd_server_add_export", "Serves a bdev to NBD clients.", add_export)
        .register(app)?;
    let method = "Removes an export from an NBD server, and disconnects its clients.";
    Method::task("nbd_server_remove_export", method, remove_export).register(app)
}

async fn start_disk(app: &App, params: StartDisk) -> Result<String> {
    let index = match &params.nbd_device {
        Some(device) => disk::index(device)?,
        None => disk::free_index()?,
    };
    registry()?.start_disk(app, &params.bdev_name, index).await?;
    Ok(disk::device(index))
}

async fn stop_disk(_app: &App, params: StopDisk) -> Result<bool> {
    let index = disk::index(&params.nbd_device)?;
    registry()?.stop_disk(index).await?;
    Ok(true)
}

fn get_disks(_app: &App, params: GetDisks) -> Result<Vec<Value>> {
    let wanted = params.nbd_device.as_deref().map(disk::index).transpose()?;
    let registry = registry()?;
    let disks = registry.disks.borrow();
    if let Some(index) = wanted
        && !disks.contains_key(&index)
    {
        return Err(Error::no_such_device());
    }
    let listed = disks.iter().filter(|(index, _)| wanted.is_none_or(|wanted| wanted == **index));
    Ok(listed
        .map(|(index, disk)| json!({"nbd_device": disk::device(*index), "bdev_name": disk.bdev()}))
        .collect())
}

fn create_server(_app: &App, params: CreateServer) -> Result<bool> {
    let address = match (params.path, params.host) {
        (Some(path), None) => Address::unix("path", path)?,
        (None, Some(host)) => Address::ip("host", &host, params.port)?,
        _ => return Err(Error::invalid("path", "or host", "exactly one of path and host")),
    };
    registry()?.create_server(&params.name, &address)?;
    Ok(true)
}

async fn delete_server(_app: &App, params: DeleteServer) -> Result<bool> {
    registry()?.delete_server(&params.name).await?;
    Ok(true)
}

fn get_servers(_app: &App, params: GetServers) -> Result<Vec<Value>> {
    let registry = registry()?;
    let servers = registry.servers.borrow();
    if let Some(name) = &params.name
        && !servers.contains_key(name)
    {
        return Err(no_server(name));
    }
    let listed =
        servers.iter().filter(|(name, _)| params.name.as_ref().is_none_or(|of| of == *name));
    Ok(listed
        .map(|(name, server)| {
            let mut view = address_view(name, server.address());
            let exports: Vec<_> = server.catalog().list().iter().map(export_view).collect();
            view.insert("exports".into(), exports.into());
            view.into()
        })
        .collect())
}

fn add_export(app: &App, params: AddExport) -> Result<bool> {
    let name = params.name.unwrap_or_else(|| params.bdev_name.clone());
    if name.len() > NAME_LEN_MAX || name.chars().any(char::is_control) {
        let allowed = format!("at most {NAME_LEN_MAX} bytes without control characters");
        return Err(Error::invalid("name", format!("of {} bytes", name.len()), allowed));
    }
    let description = params.description.unwrap_or_default();
    if description.len() > NAME_LEN_MAX {
        let given = format!("of {} bytes", description.len());
        return Err(Error::invalid("description", given, format!("at most {NAME_LEN_MAX} bytes")));
    }
    let config =
        ExportConfig { name, bdev: params.bdev_name, description, is_read_only: params.readonly };
    registry()?.add_export(app, &params.server, config)?;
    Ok(true)
}

async fn remove_export(_app: &App, params: RemoveExport) -> Result<bool> {
    registry()?.remove_export(&params.server, &params.name).await?;
    Ok(true)
}

/// A server's name and address, in the parameters of `nbd_create_server`.
fn address_view(name: &str, address: &Address) -> Map<String, Value> {
    let mut view = Map::new();
    view.insert("name".into(), name.into());
    match address {
        Address::Unix(path) => {
            view.insert("path".into(), path.to_string_lossy().into());
        }
        Address::Ip(ip) => {
            view.insert("host".into(), ip.ip().to_string().into());
            view.insert("port".into(), ip.port().into());
        }
    }
    view
}

fn export_view(export: &Arc<Export>) -> Value {
    let config = export.config();
    json!({
        "name": config.name,
        "bdev_name": config.bdev,
        "description": config.description,
        "readonly": config.is_read_only,
        "block_size": export.block_size(),
        "size_bytes": export.size_bytes(),
    })
}

/// Writes the calls that create the servers and disks again.
pub fn write_config(config: &mut Config<'_>) {
    let Ok(registry) = registry() else { return };
    for (name, server) in &*registry.servers.borrow() {
        config.call("nbd_create_server", &address_view(name, server.address()));
        for export in server.catalog().list() {
            let export = export.config();
            let params = json!({
                "server": name,
                "bdev_name": export.bdev,
                "name": export.name,
                "description": export.description,
                "readonly": export.is_read_only,
            });
            config.call("nbd_server_add_export", &params);
        }
    }
    for (index, disk) in &*registry.disks.borrow() {
        let params = json!({"nbd_device": disk::device(*index), "bdev_name": disk.bdev()});
        config.call("nbd_start_disk", &params);
    }
}
