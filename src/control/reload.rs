//! SIGHUP: key stores, credentials, keys, regions, budget and TLS are read anew and swapped whole; what runs on the old ones ends on them.

use std::path::Path;
use std::sync::Arc;

use super::config::{Config, Kind};
use super::service::{Service, key_stores};
use crate::telemetry::{Level, Log};
use crate::tls::{self, Problem};

/// Reads the configuration anew. When anything is wrong with it, nothing changes.
pub fn reload(service: &Arc<Service>) {
    match try_reload(service) {
        Ok(notes) => {
            service.log.event(Level::Info, format!("configuration {} reloaded", service.config_file.display()));
            for note in notes {
                service.log.event(Level::Warn, note);
            }
        }
        Err(why) => service.log.event(Level::Error, format!("configuration not reloaded, the old one stays in force: {why}")),
    }
}

fn try_reload(service: &Service) -> Result<Vec<String>, String> {
    let mut config = Config::load(&service.config_file).map_err(|invalid| invalid.to_string())?;
    let settings = config.tls.settings();
    let tls_config = tls::server(&settings).map_err(|problems| told(&service.config_file, &problems))?;
    let old = service.config.load();
    let mut notes = std::mem::take(&mut config.warnings);
    notes.extend(tls::check(&settings).warnings.iter().map(ToString::to_string));
    if config.key_managers != old.key_managers {
        return Err("key managers changed: they are opened at the start only, so this needs a restart".into());
    }
    if (config.server.listen, config.server.shards, config.admin) != (old.server.listen, old.server.shards, old.admin) {
        notes.push("server.listen, server.shards and admin.listen are in force from the next start only".into());
    }
    let stores = key_stores(&config, &service.managers)?;
    service.stores.store(Arc::new(stores));
    // A new configuration brings a new ticket key: what was agreed under the old one cannot be resumed past a changed client check.
    service.tls.store(Arc::new(tls_config));
    service.config.store(Arc::new(config));
    Ok(notes)
}

/// Problems as lines that name file and key.
pub fn told(config_file: &Path, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{}: {problem}", config_file.display())).collect::<Vec<_>>().join("\n")
}

/// Keys in a file are for trying out, and that is said at every start.
pub fn warn_of_local_keys(config: &Config, log: &Log) {
    for manager in &config.key_managers {
        if let Kind::Local { key_file } = &manager.kind {
            log.event(
                Level::Warn,
                format!(
                    "key manager {:?} keeps its keys in the file {}: this is for trying out, not for keys that matter",
                    manager.name,
                    key_file.display()
                ),
            );
        }
    }
}
