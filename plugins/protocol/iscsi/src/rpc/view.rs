//! The results of the methods, in the reference's form.

use crate::app::{GuestInfo, Iscsi};
use crate::group::ConnectionInfo;
use crate::model::{AuthGroup, InitiatorGroup, Options, PortalGroup, Target};
use crate::node::histogram::{GRANULARITY, Histogram, MAX_RANGE, TICKS_HZ};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

pub(crate) fn options(options: &Options) -> Value {
    let chap = options.discovery_chap;
    let mut view = Map::new();
    if let Some(file) = &options.auth_file {
        view.insert("auth_file".into(), json!(file));
    }
    let rest = json!({
        "node_base": options.node_base,
        "max_sessions": options.max_sessions,
        "max_connections_per_session": options.max_connections_per_session,
        "max_queue_depth": options.max_queue_depth,
        "default_time2wait": options.default_time2wait,
        "default_time2retain": options.default_time2retain,
        "first_burst_length": options.first_burst_length,
        "immediate_data": options.immediate_data,
        "allow_duplicated_isid": options.allow_duplicated_isid,
        "error_recovery_level": options.error_recovery_level,
        "nop_timeout": options.nop_timeout,
        "nop_in_interval": options.nop_in_interval,
        "disable_chap": chap.disabled,
        "require_chap": chap.required,
        "mutual_chap": chap.mutual,
        "chap_group": chap.group,
        "max_large_datain_per_connection": options.max_large_datain_per_connection,
        "max_r2t_per_connection": options.max_r2t_per_connection,
        "pdu_pool_size": options.pdu_pool_size,
        "immediate_data_pool_size": options.immediate_data_pool_size,
        "data_out_pool_size": options.data_out_pool_size,
    });
    if let Value::Object(rest) = rest {
        view.extend(rest);
    }
    Value::Object(view)
}

pub(super) fn devices(app: &Iscsi) -> Value {
    let model = app.model.borrow();
    let mut all: Vec<_> = model.targets.values().map(|target| (target.id, &target.name)).collect();
    all.sort();
    all.into_iter().map(|(id, name)| json!({"id": id, "device_name": name})).collect()
}

pub(super) fn auth_groups(app: &Iscsi) -> Value {
    let model = app.model.borrow();
    model.auth_groups.iter().map(|(tag, group)| auth_group(*tag, group, false)).collect()
}

/// `with_secrets`: only for the saved configuration.
pub(crate) fn auth_group(tag: i32, group: &AuthGroup, with_secrets: bool) -> Value {
    let secrets = group.secrets.iter().map(|one| {
        let mut view = Map::new();
        view.insert("user".into(), json!(one.user));
        if with_secrets {
            view.insert("secret".into(), json!(one.secret));
        }
        if let Some((muser, msecret)) = &one.mutual {
            view.insert("muser".into(), json!(muser));
            if with_secrets {
                view.insert("msecret".into(), json!(msecret));
            }
        }
        Value::Object(view)
    });
    json!({"tag": tag, "secrets": secrets.collect::<Value>()})
}

pub(super) fn initiator_groups(app: &Iscsi) -> Value {
    let model = app.model.borrow();
    model.initiator_groups.iter().map(|(tag, group)| initiator_group(*tag, group)).collect()
}

pub(crate) fn initiator_group(tag: i32, group: &InitiatorGroup) -> Value {
    json!({"tag": tag, "initiators": group.initiators, "netmasks": group.netmasks})
}

pub(super) fn portal_groups(app: &Iscsi) -> Value {
    let model = app.model.borrow();
    model.portal_groups.iter().map(|(tag, group)| portal_group(*tag, group)).collect()
}

pub(crate) fn portal_group(tag: i32, group: &PortalGroup) -> Value {
    let portals = group.portals.iter().map(|one| json!({"host": one.host, "port": one.port}));
    json!({"tag": tag, "portals": portals.collect::<Value>(), "private": group.is_private})
}

pub(super) fn targets(app: &Iscsi) -> Value {
    app.model.borrow().targets.values().map(target).collect()
}

pub(crate) fn target(target: &Target) -> Value {
    let maps = target.maps.iter().map(|map| json!({"pg_tag": map.pg_tag, "ig_tag": map.ig_tag}));
    let luns = target.luns.iter();
    let luns = luns.map(|(id, lun)| {
        let mut view = json!({"bdev_name": lun.bdev_name, "lun_id": id});
        if let (Some(file), Some(view)) = (&lun.ptpl_file, view.as_object_mut()) {
            view.insert("ptpl_file".to_owned(), json!(file));
        }
        view
    });
    json!({
        "name": target.name,
        "alias_name": target.alias,
        "pg_ig_maps": maps.collect::<Value>(),
        "luns": luns.collect::<Value>(),
        "queue_depth": target.queue_depth,
        "disable_chap": target.chap.disabled,
        "require_chap": target.chap.required,
        "mutual_chap": target.chap.mutual,
        "chap_group": target.chap.group,
        "header_digest": target.header_digest,
        "data_digest": target.data_digest,
    })
}

pub(super) fn histogram(histogram: &Histogram) -> Value {
    json!({
        "histogram": BASE64_STANDARD.encode(histogram.to_bytes()),
        "granularity": GRANULARITY,
        "min_range": 0,
        "max_range": MAX_RANGE,
        "tsc_rate": TICKS_HZ,
    })
}

pub(super) fn connections(running: &[ConnectionInfo], guests: &[GuestInfo]) -> Value {
    let guests = guests.iter().map(|guest| {
        let (tsih, cid) = guest.session.unwrap_or((u16::MAX, 0));
        let state = if guest.session.is_some() { "running" } else { "invalid" };
        (cid, tsih, state, guest.phase, &guest.peer, &guest.local, "", "app_thread")
    });
    let running = running.iter().map(|one| {
        let name = one.target.rsplit(':').next().unwrap_or_default();
        let phase = "full_feature_phase";
        (one.cid, one.tsih, "running", phase, &one.peer, &one.local, name, one.thread.as_str())
    });
    let all = running.chain(guests).enumerate();
    all.map(|(id, (cid, tsih, state, phase, peer, local, name, thread))| {
        json!({
            "id": id,
            "cid": cid,
            "tsih": tsih,
            "state": state,
            "login_phase": phase,
            "initiator_addr": peer,
            "target_addr": local,
            "target_node_name": name,
            "thread_name": thread,
        })
    })
    .collect()
}
