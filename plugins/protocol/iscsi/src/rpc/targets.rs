//! Target nodes.

use super::params::{
    AddLun, ChangeMaps, CreateTargetNode, EnableHistogram, OneTarget, PgIgMap, RequestLogout,
    SetRedirect, TargetAuth,
};
use super::{missing, refused, this, view};
use crate::app::Iscsi;
use crate::model::target::Map;
use crate::model::{ChapPolicy, Lun, Model, Portal, TARGETS_MAX, Target};
use drivebay_sdk::rpc::Call;
use drivebay_sdk::{App, Error, Result, errno};
use drivebay_spec_iscsi::name;
use std::collections::BTreeMap;

/// Time in which initiators must log out after a request, in seconds.
const LOGOUT_SECONDS: u16 = 30;
/// Largest LUN number.
const LUN_MAX: u16 = 0x3fff;

pub(super) fn create(app: &Iscsi, params: CreateTargetNode) -> Result<()> {
    let chap = ChapPolicy::new(
        params.disable_chap,
        params.require_chap,
        params.mutual_chap,
        params.chap_group,
    )?;
    let mut model = app.model.borrow_mut();
    let name = model.options.target_name(&params.name);
    name::check(&name).map_err(|allowed| Error::invalid("name", &name, allowed))?;
    if model.target(&name).is_some() {
        return Err(Error::new(errno::EEXIST, format!("target {name} exists already")));
    }
    if model.targets.len() >= TARGETS_MAX {
        return Err(Error::new(
            errno::ENOSPC,
            "there are 1024 targets already; allowed: at most 1024",
        ));
    }
    let maps = maps(&params.pg_ig_maps, &model)?;
    let mut luns = BTreeMap::new();
    for lun in params.luns {
        let number = u16::try_from(lun.lun_id).ok().filter(|number| *number <= LUN_MAX);
        let number = number.ok_or_else(|| Error::invalid("lun_id", lun.lun_id, "0 to 16383"))?;
        if luns.insert(number, Lun { bdev_name: lun.bdev_name, ptpl_file: lun.ptpl_file }).is_some()
        {
            return Err(Error::invalid("lun_id", number, "each number once"));
        }
    }
    let taken: Vec<i32> = model.targets.values().map(|target| target.id).collect();
    let id = (0..).find(|id| !taken.contains(id)).unwrap_or(0);
    let depth_max = model.options.max_queue_depth;
    let queue_depth = u32::try_from(params.queue_depth).unwrap_or(0);
    let target = Target {
        name: name.clone(),
        alias: params.alias_name,
        maps,
        luns: luns.clone(),
        queue_depth: if (1..=depth_max).contains(&queue_depth) { queue_depth } else { depth_max },
        chap,
        header_digest: params.header_digest,
        data_digest: params.data_digest,
        redirects: BTreeMap::new(),
        id,
        has_histogram: false,
    };
    model.targets.insert(name.clone(), target);
    drop(model);
    let added = app.add_target(&name, &luns);
    if added.is_err() {
        app.model.borrow_mut().targets.remove(&name);
    }
    added
}

fn maps(given: &[PgIgMap], model: &Model) -> Result<Vec<Map>> {
    let mut maps = Vec::new();
    for PgIgMap { pg_tag, ig_tag } in given {
        if !model.portal_groups.contains_key(pg_tag) {
            return Err(missing("portal group", pg_tag));
        }
        if !model.initiator_groups.contains_key(ig_tag) {
            return Err(missing("initiator group", ig_tag));
        }
        let map = Map { pg_tag: *pg_tag, ig_tag: *ig_tag };
        if maps.contains(&map) {
            return Err(Error::invalid(
                "pg_ig_maps",
                format!("{pg_tag}:{ig_tag}"),
                "each map once",
            ));
        }
        maps.push(map);
    }
    Ok(maps)
}

fn with<V>(app: &Iscsi, name: &str, call: impl FnOnce(&mut Target) -> Result<V>) -> Result<V> {
    let mut model = app.model.borrow_mut();
    let name = known(&model, name)?;
    call(model.targets.get_mut(&name).ok_or_else(|| missing("target", &name))?)
}

/// The name of an existing target, as it was created.
fn known(model: &Model, given: &str) -> Result<String> {
    let name = model.options.target_name(given);
    let found = model.target(&name).map(|target| target.name.clone());
    found.ok_or_else(|| missing("target", &name))
}

pub(super) fn set_auth(app: &Iscsi, params: TargetAuth) -> Result<()> {
    let (disabled, required) = (params.disable_chap, params.require_chap);
    let chap = ChapPolicy::new(disabled, required, params.mutual_chap, params.chap_group)?;
    with(app, &params.name, |target| {
        target.chap = chap;
        Ok(())
    })
}

pub(super) fn add_maps(app: &Iscsi, params: ChangeMaps) -> Result<()> {
    let new = maps(&params.pg_ig_maps, &app.model.borrow())?;
    with(app, &params.name, |target| {
        if let Some(map) = new.iter().find(|map| target.maps.contains(map)) {
            let given = format!("{}:{}", map.pg_tag, map.ig_tag);
            return Err(Error::invalid("pg_ig_maps", given, "maps that the target does not have"));
        }
        target.maps.extend(new);
        Ok(())
    })?;
    app.ports_changed();
    Ok(())
}

pub(super) fn remove_maps(app: &Iscsi, params: ChangeMaps) -> Result<()> {
    with(app, &params.name, |target| {
        let gone = |map: &Map| {
            let same = |one: &&PgIgMap| one.pg_tag == map.pg_tag && one.ig_tag == map.ig_tag;
            params.pg_ig_maps.iter().any(|one| same(&one))
        };
        let has =
            |one: &PgIgMap| target.maps.contains(&Map { pg_tag: one.pg_tag, ig_tag: one.ig_tag });
        if let Some(missing) = params.pg_ig_maps.iter().find(|one| !has(one)) {
            let given = format!("{}:{}", missing.pg_tag, missing.ig_tag);
            return Err(Error::invalid("pg_ig_maps", given, "maps that the target has"));
        }
        target.retain_maps(|map| !gone(map));
        Ok(())
    })?;
    app.ports_changed();
    Ok(())
}

pub(super) fn delete(_: &App, call: Call, params: OneTarget) {
    let found = this().and_then(|app| {
        let mut model = app.model.borrow_mut();
        let name = known(&model, &params.name)?;
        model.targets.remove(&name);
        drop(model);
        Ok((app, name))
    });
    match found {
        Ok((app, name)) => app.remove_target(&name, move || call.reply(true)),
        Err(error) => call.fail(error),
    }
}

pub(super) fn add_lun(app: &Iscsi, params: AddLun) -> Result<()> {
    let (name, unit) = with(app, &params.name, |target| {
        let unit = match u16::try_from(params.lun_id) {
            Ok(unit) => unit,
            Err(_) => {
                (0..=LUN_MAX).find(|unit| !target.luns.contains_key(unit)).ok_or_else(|| {
                    Error::new(errno::ENOSPC, "the target has no free LUN: 0 to 16383 are in use")
                })?
            }
        };
        if target.luns.contains_key(&unit) {
            return Err(Error::new(errno::EEXIST, format!("the target has a LUN {unit} already")));
        }
        Ok((target.name.clone(), unit))
    })?;
    let lun = Lun { bdev_name: params.bdev_name, ptpl_file: params.ptpl_file };
    app.add_unit(&name, unit, &lun)?;
    with(app, &name, |target| {
        target.luns.insert(unit, lun);
        Ok(())
    })
}

pub(super) fn set_redirect(app: &Iscsi, params: SetRedirect) -> Result<()> {
    let to = match (params.redirect_host, params.redirect_port) {
        (Some(host), Some(port)) => {
            let portal = Portal { host, port };
            portal.address()?;
            Some((portal.host, portal.port))
        }
        (None, None) => None,
        _ => {
            return Err(Error::invalid("redirect_host", "alone", "with redirect_port, or neither"));
        }
    };
    {
        let model = app.model.borrow();
        let group = model.portal_groups.get(&params.pg_tag);
        let group = group.ok_or_else(|| missing("portal group", params.pg_tag))?;
        if group.is_private {
            return Err(Error::invalid("pg_tag", params.pg_tag, "a public portal group"));
        }
        let mut portals = group.portals.iter().map(|own| (&own.host, &own.port));
        if let Some((host, port)) = &to
            && portals.any(|own| own == (host, port))
        {
            let given = format!("{host}:{port}");
            return Err(Error::invalid("redirect_host", given, "a portal of another portal group"));
        }
    }
    with(app, &params.name, |target| {
        if !target.maps.iter().any(|map| map.pg_tag == params.pg_tag) {
            let allowed = "a portal group of the target's pg_ig_maps";
            return Err(Error::invalid("pg_tag", params.pg_tag, allowed));
        }
        match to {
            Some(to) => target.redirects.insert(params.pg_tag, to),
            None => target.redirects.remove(&params.pg_tag),
        };
        Ok(())
    })
}

pub(super) fn request_logout(app: &Iscsi, params: RequestLogout) -> Result<()> {
    let name = with(app, &params.name, |target| Ok(target.name.clone()))?;
    let by = (params.pg_tag >= 0).then_some(params.pg_tag);
    let of = name.clone();
    app.in_home(&name, move |group| group.request_logout(&of, by, LOGOUT_SECONDS));
    Ok(())
}

pub(super) fn enable_histogram(app: &Iscsi, params: EnableHistogram) -> Result<()> {
    let name = with(app, &params.name, |target| {
        target.has_histogram = params.enable;
        Ok(target.name.clone())
    })?;
    let of = name.clone();
    app.in_home(&name, move |group| group.count_latencies(&of, params.enable));
    Ok(())
}

pub(super) fn get_histogram(_: &App, call: Call, params: OneTarget) {
    let found = this().and_then(|app| {
        let name = with(&app, &params.name, |target| {
            if target.has_histogram {
                return Ok(target.name.clone());
            }
            let why = "latencies are not counted; call iscsi_enable_histogram first";
            Err(Error::new(errno::EINVAL, format!("target {}: {why}", target.name)))
        })?;
        Ok((app, name))
    });
    match found {
        Ok((app, name)) => app.histogram(&name, move |histogram| match histogram {
            Some(histogram) => call.reply(view::histogram(&histogram)),
            None => {
                call.fail(refused(Error::new(errno::ENODEV, "the target was deleted meanwhile")))
            }
        }),
        Err(error) => call.fail(refused(error)),
    }
}
