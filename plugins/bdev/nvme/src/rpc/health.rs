//! `bdev_nvme_get_controller_health_info`: the SMART / health information log.

use drivebay_nvme_driver::spec::NSID_ALL;
use drivebay_nvme_driver::spec::identify;
use drivebay_nvme_driver::spec::log::{Health, lid};
use drivebay_sdk::prelude::*;
use drivebay_sdk::serde_json::{Value, json};

use super::{INTERNAL_ERROR, task_with_code};
use crate::app;

/// Length of the log, in bytes.
const LOG_LEN: u32 = 512;
/// 0 °C in kelvins.
const ZERO_CELSIUS: i32 = 273;

params! {
    /// Parameters of `bdev_nvme_get_controller_health_info`.
    pub struct HealthInfo {
        /// Name of the controller.
        pub name: String,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    task_with_code(
        INTERNAL_ERROR,
        "bdev_nvme_get_controller_health_info",
        "Reads the SMART / health information log of a controller.",
        get,
    )
    .describe(|method| {
        method.result("The log, and a description of the controller.").error(
            INTERNAL_ERROR,
            "no_such_device",
            "No controller has that name, or it did not answer.",
        )
    })
    .register(app)
}

async fn get(_: &App, params: HealthInfo) -> Result<Value> {
    let controller = app::get()?.find_controller(&params.name).ok_or_else(|| {
        Error::new(errno::ENODEV, format!("Device not found: no controller named {}", params.name))
    })?;
    let log = controller.connected()?.log_page(lid::HEALTH, NSID_ALL, 0, LOG_LEN).await?;
    let log = log.first_chunk().map(Health::parse).ok_or_else(|| {
        Error::new(errno::EIO, format!("the controller sent {} bytes of its log", log.len()))
    })?;
    Ok(show(&controller.data(), &controller.trids.current().attach.traddr, &log))
}

/// The log in the reference's format. Counters stop at the largest number of 64 bits.
fn show(data: &identify::Controller, traddr: &str, log: &Health) -> Value {
    let text = |text: Option<&str>| text.unwrap_or_default().trim().to_owned();
    let count = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    let celsius = |kelvin: u16| i32::from(kelvin) - ZERO_CELSIUS;
    let mut shown = json!({
        "model_number": text(data.mn.as_str()),
        "serial_number": text(data.sn.as_str()),
        "firmware_revision": text(data.fr.as_str()),
        "traddr": traddr,
        "critical_warning": log.critical_warning,
        "temperature_celsius": celsius(log.temperature),
        "available_spare_percentage": log.available_spare,
        "available_spare_threshold_percentage": log.available_spare_threshold,
        "percentage_used": log.percentage_used,
        "data_units_read": count(log.data_units_read),
        "data_units_written": count(log.data_units_written),
        "host_read_commands": count(log.host_read_commands),
        "host_write_commands": count(log.host_write_commands),
        "controller_busy_time": count(log.controller_busy_time),
        "power_cycles": count(log.power_cycles),
        "power_on_hours": count(log.power_on_hours),
        "unsafe_shutdowns": count(log.unsafe_shutdowns),
        "media_errors": count(log.media_errors),
        "num_err_log_entries": count(log.error_log_entries),
        "warning_temperature_time_minutes": log.warning_temperature_time,
        "critical_composite_temperature_time_minutes": log.critical_temperature_time,
    });
    // The reference repeats this member for each sensor, and readers of JSON keep the last one.
    if let Some(sensor) = log.temperature_sensors.iter().rev().find(|kelvin| **kelvin != 0)
        && let Value::Object(members) = &mut shown
    {
        members.insert("temperature_sensor_celsius".to_owned(), celsius(*sensor).into());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_are_in_degrees_celsius_and_counters_that_are_too_large_stop() {
        let log = Health {
            temperature: 300,
            temperature_sensors: [290, 0, 280, 0, 0, 0, 0, 0],
            power_cycles: u128::MAX,
            ..Health::default()
        };
        let shown = show(&identify::Controller::default(), "::1", &log);
        assert_eq!(shown["temperature_celsius"], 27);
        assert_eq!(shown["temperature_sensor_celsius"], 7);
        assert_eq!(shown["power_cycles"], u64::MAX);
        let cold = show(&identify::Controller::default(), "::1", &Health::default());
        assert_eq!(cold["temperature_celsius"], -273);
        assert_eq!(cold.get("temperature_sensor_celsius"), None);
    }
}
