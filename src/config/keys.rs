//! Every key of the configuration.

use super::table::{InForce, Setting};
use super::{
    audit, fleet, key_manager, key_version, keystore, policy, quota, server, tls, witness,
};

/// The sections.
pub(super) const SECTIONS: &[Setting<()>] = &[
    Setting::structure("include", InForce::Reload),
    Setting::structure("server", InForce::Reload),
    Setting::structure("tls", InForce::Reload),
    Setting::structure("admin", InForce::Reload),
    Setting::structure("audit", InForce::Reload),
    Setting::structure("witness", InForce::Reload),
    Setting::structure("fleet", InForce::Start),
    Setting::structure("key_manager", InForce::Reload),
    Setting::structure("keystore", InForce::Reload),
];

/// The path of each, without places (`keystore.key.id`), and when a change of it is in force.
pub(super) fn all() -> Vec<(String, InForce)> {
    let mut all = Vec::new();
    add("", SECTIONS, &mut all);
    add("server", server::KEYS, &mut all);
    add("server.proxy_protocol", server::PROXY_PROTOCOL_KEYS, &mut all);
    add("tls", tls::KEYS, &mut all);
    add("tls.client", tls::CLIENT_KEYS, &mut all);
    add("admin", server::ADMIN_KEYS, &mut all);
    add("audit", audit::KEYS, &mut all);
    add("audit.witness", audit::WITNESS_KEYS, &mut all);
    add("witness", witness::KEYS, &mut all);
    add("fleet", fleet::KEYS, &mut all);
    add("fleet.etcd", fleet::ETCD_KEYS, &mut all);
    add("key_manager", key_manager::KEYS, &mut all);
    add("key_manager", key_manager::LOCAL_KEYS, &mut all);
    add("key_manager", key_manager::PKCS11_KEYS, &mut all);
    add("key_manager", key_manager::WRAPPED_KEYS, &mut all);
    add("keystore", keystore::KEYS, &mut all);
    add("keystore.credential", keystore::CREDENTIAL_KEYS, &mut all);
    add("keystore.key", keystore::KEY_KEYS, &mut all);
    add("keystore.policy", policy::KEYS, &mut all);
    add("keystore.quota", quota::KEYS, &mut all);
    add("keystore.key.quota", quota::KEYS, &mut all);
    add("keystore.key.version", key_version::KEYS, &mut all);
    all
}

fn add<T>(section: &str, keys: &[Setting<T>], all: &mut Vec<(String, InForce)>) {
    let path = |name: &str| match section {
        "" => name.to_owned(),
        section => format!("{section}.{name}"),
    };
    all.extend(keys.iter().map(|key| (path(key.name), key.in_force)));
}
